#include "src/engine/runtime/machine_files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "src/base/helper_program.h"
#include "src/base/new_file.h"
#include "src/base/sparse_file.h"
#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;

bool is_there(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

std::vector<std::string> places() {
  if (const char* own = std::getenv("VMM_MACHINE"); own != nullptr && *own != 0) {
    return {fs::absolute(own)};
  }
  std::error_code error;
  const auto folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<std::string> found = {(folder / "../../share/vmm/machine").lexically_normal(),
                                    (folder / "../share/vmm/machine").lexically_normal()};
  for (auto up = folder; up.has_relative_path(); up = up.parent_path()) {
    found.push_back(up / "guest-images/machine");
  }
  return found;
}

Result<void> format(const std::string& path) {
  constexpr std::array kPlaces = {"/sbin/mke2fs", "/usr/sbin/mke2fs", "/usr/local/sbin/mke2fs"};
  const char* program = nullptr;
  for (const char* place : kPlaces) {
    if (program == nullptr && ::access(place, X_OK) == 0) program = place;
  }
  if (program == nullptr) return fail("mke2fs is missing: the package e2fsprogs has it");
  // A journal of holes, tables that nobody writes: 248 KiB on the disk, whatever the size.
  const std::array<const char*, 16> words = {
      "mke2fs",
      "-q",
      "-F",
      "-t",
      "ext4",
      "-m",
      "0",
      "-O",
      "sparse_super2,^resize_inode",
      "-J",
      "size=8",
      "-E",
      "packed_meta_blocks=1,lazy_itable_init=1,lazy_journal_init=1,nodiscard",
      path.c_str(),
      kWritableSize,
      nullptr};
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("cannot start mke2fs");
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int target = 0; null >= 0 && target < 3; ++target) (void)::dup2(null, target);
    ::execv(program, const_cast<char**>(words.data()));
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return fail("mke2fs failed for '{}': is its disk full?", path);
  return {};
}

Result<void> copy_sparse(int from, int to) {
  if (::ioctl(to, FICLONE, from) == 0) return {};
  struct stat status{};
  if (::fstat(from, &status) < 0) return fail_errno("cannot read the formatted layer");
  if (::ftruncate(to, status.st_size) < 0) return fail_errno("cannot make the writable layer");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  std::array<std::byte, 65536> buffer;
  for (std::uint64_t at = 0; at < size;) {
    const auto data = TRY(next_data(from, at, size));
    for (std::uint64_t done = 0; done < data.length;) {
      const auto part =
          std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), data.length - done));
      TRY(read_exact_at(from, part, data.offset + done));
      TRY(write_all_at(to, part, data.offset + done));
      done += part.size();
    }
    at = data.end();
  }
  return {};
}

Result<std::string> formatted_layer(const std::string& root) {
  const auto folder = root + "/machine";
  auto path = fmt::format("{}/writable-{}.img", folder, kWritableSize);
  if (is_there(path)) return path;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return fail("cannot create '{}': {}", folder, error.message());
  const auto lock = TRY(open_file(folder + "/lock", O_RDWR | O_CREAT));
  while (::flock(lock.get(), LOCK_EX) < 0) {
    if (errno != EINTR) return fail_errno("cannot lock '{}'", folder);
  }
  if (is_there(path)) return path;
  auto file = TRY(NewFile::create(path, 0600));
  TRY(format(file.partial()));
  TRY(file.publish());
  return path;
}

}  // namespace

Result<MachineFiles> find_machine_files(const std::string& kernel) {
  if (!kernel.empty() && !is_there(kernel))
    return fail_errno("cannot read the kernel '{}'", kernel);
  const auto all = places();
  for (const auto& place : all) {
    MachineFiles files{place + "/kernel", place + "/initramfs", ""};
    if (!kernel.empty()) files.kernel = kernel;
    if (!is_there(files.kernel) || !is_there(files.initramfs)) continue;
    if (const auto words = read_text_file(place + "/append")) {
      files.append = words->substr(0, words->find('\n'));
    }
    return files;
  }
  return fail(
      "no kernel and initramfs for containers: `ninja machine` makes them in a build directory, "
      "`guest-images/machine/build --out '{}'` anywhere else",
      all[0]);
}

Result<std::string> find_monitor() {
  if (const char* own = std::getenv("VMM_MONITOR"); own != nullptr && *own != 0) return own;
  auto beside = find_helper_program({"monitor", "vmm", "src/cli"});
  if (beside) return beside;
  std::error_code error;
  const auto installed = (fs::read_symlink("/proc/self/exe", error).parent_path() / "../../bin/vmm")
                             .lexically_normal();
  if (::access(installed.c_str(), X_OK) == 0) return installed.string();
  return beside;
}

Result<void> make_writable_layer(const std::string& root, const std::string& path) {
  const auto original = TRY(formatted_layer(root));
  const auto from = TRY(open_file(original, O_RDONLY));
  const auto to = TRY(open_file(path, O_RDWR | O_CREAT | O_TRUNC));
  TRY(copy_sparse(from.get(), to.get()));
  if (::fdatasync(to.get()) < 0) return fail_errno("cannot sync '{}'", path);
  return {};
}

}  // namespace vmm::engine
