// What `vmm cp` takes from strangers, a machine or an archive, written into a directory: nothing
// beside it changes. The first byte says what follows, an archive or messages
// (src/protocol/files.h), and how they are unpacked.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "src/engine/runtime/tar_files.h"
#include "src/files/unpacker.h"

namespace {

using namespace vmm;
namespace fs = std::filesystem;

constexpr std::uint64_t kMostBytes = 1u
                                     << 20;  // of files; an archive may hold a thousand times more

// A directory that is written to, one beside it, and ways from the one into the other.
class Ground {
 public:
  Ground() {
    std::string name = (fs::current_path() / "files-fuzz.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder_ = name;
    fs::create_directories(folder_ / "outside/folder");
    std::ofstream(folder_ / "outside/file") << "precious";
    if (::mkfifo((folder_ / "outside/pipe").c_str(), 0640) < 0) std::abort();
    outside_ = describe();
    reset();
  }
  ~Ground() { clear(folder_); }

  std::string inside() const { return folder_ / "inside"; }
  void reset() const {
    clear(inside());
    fs::create_directories(folder_ / "inside/folder");
    std::ofstream(folder_ / "inside/file") << "old";
    fs::create_symlink("../outside", folder_ / "inside/up");
    fs::create_symlink(folder_ / "outside", folder_ / "inside/absolute");
    fs::create_symlink("../outside/file", folder_ / "inside/link");
    fs::create_symlink("../../outside", folder_ / "inside/folder/up");
  }
  void check() const {
    if (describe() != outside_) std::abort();
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const auto name = entry.path().filename();
      if (name != "inside" && name != "outside") std::abort();
    }
  }

 private:
  // Also of directories that may not be entered.
  static void clear(const fs::path& folder) {
    if (!fs::exists(folder)) return;
    fs::permissions(folder, fs::perms::owner_all);
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.symlink_status().type() == fs::file_type::directory) clear(entry.path());
    }
    fs::remove_all(folder);
  }
  static std::string describe(const fs::path& path) {
    struct stat status{};
    if (::lstat(path.c_str(), &status) < 0) return "gone";
    return fmt::format("{} {} {:o} {} {} {} {} {}.{}\n", path.string(), status.st_ino,
                       status.st_mode, status.st_nlink, status.st_uid, status.st_gid,
                       status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  }
  std::string describe() const {
    std::string text = describe(folder_ / "outside");
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "outside")) {
      text += describe(entry.path());
    }
    std::ifstream file(folder_ / "outside/file");
    return text + std::string(std::istreambuf_iterator<char>(file), {});
  }

  fs::path folder_;
  std::string outside_;
};

class Bounded final : public engine::ByteSource {
 public:
  explicit Bounded(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<std::size_t> read(std::span<std::byte> buffer) override {
    const auto n = std::min(buffer.size(), bytes_.size());
    std::copy_n(bytes_.begin(), n, buffer.begin());
    bytes_ = bytes_.subspan(n);
    return n;
  }

 private:
  std::span<const std::byte> bytes_;
};

Result<void> take_all(protocol::agent::MessageReader& reader, files::Unpacker& unpacker,
                      std::uint64_t& left) {
  while (const auto message = TRY(reader.next())) {
    if (message->fields.size() > left) return fail("more than a run is to write");
    left -= message->fields.size();
    TRY(unpacker.take(*message));
  }
  return {};
}

Result<void> unpack(int root, std::uint8_t how, std::span<const std::byte> bytes) {
  files::UnpackOptions options;
  options.within = (how & 2) != 0 ? files::Within::root : files::Within::directory;
  options.path = (how & 2) != 0 ? "/folder" : "";
  options.owner = static_cast<files::Owner>((how >> 2) % 3);
  if ((how & 16) != 0) options.only = "folder";
  auto unpacker = TRY(files::Unpacker::open(root, options));
  std::uint64_t left = kMostBytes;
  protocol::agent::MessageReader reader;
  if ((how & 1) != 0) {
    Bounded archive(bytes);
    return engine::send_archive(archive, [&](const std::string& message) -> Result<void> {
      reader.append(message);
      return take_all(reader, unpacker, left);
    });
  }
  reader.append({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  TRY(take_all(reader, unpacker, left));
  return unpacker.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static Ground ground;
  const UniqueFd root(::open(ground.inside().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) std::abort();
  (void)unpack(root.get(), data[0],
               std::as_bytes(std::span(data, size)).subspan(1));  // or an error
  ground.check();
  ground.reset();
  return 0;
}
