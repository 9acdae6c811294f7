#include "src/engine/image/archive_names.h"

namespace vmm::engine {
namespace {

// Debian's C library always has both. Without one, the thread's locale stays.
locale_t locale_of(ArchiveNames::As names) {
  static const locale_t bytes = ::newlocale(LC_CTYPE_MASK, "C", nullptr);
  static const locale_t utf8 = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return names == ArchiveNames::As::bytes ? bytes : utf8;
}

}  // namespace

ArchiveNames::ArchiveNames(As names) : before_(::uselocale(locale_of(names))) {}
ArchiveNames::~ArchiveNames() { (void)::uselocale(before_); }

}  // namespace vmm::engine
