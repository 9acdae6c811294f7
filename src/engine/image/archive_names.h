// ArchiveNames: which bytes libarchive takes for which names. It converts names between an
// archive's character set, UTF-8 in pax, and that of the thread's locale.
//
//   const ArchiveNames names(ArchiveNames::As::bytes);
//   archive_read_next_header(reader, &entry);
#pragma once

#include <locale.h>

#include <cstdint>

namespace vmm::engine {

// As long as it lives, of this thread; the person's own language is of no account.
class ArchiveNames {
 public:
  enum class As : std::uint8_t {
    // To read: names have the bytes that the archive has. The locale has no letters outside ASCII,
    // so that nothing else can be converted. In a locale with them, libarchive composes what it
    // converts: "e" with an accent behind it became another name.
    bytes,
    // To write: names that are UTF-8 need no mark that says "not UTF-8", which few programs know.
    utf8,
  };
  explicit ArchiveNames(As names);
  ArchiveNames(const ArchiveNames&) = delete;
  ~ArchiveNames();

 private:
  locale_t before_;
};

}  // namespace vmm::engine
