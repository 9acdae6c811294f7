// Any bytes as a qcow2 image: opened, read, written to, flushed, opened again, checked, repaired,
// rebased.
// The first eight bytes say what is done where. Backing files are not followed: their names would
// be the fuzzer's.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "src/base/log.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/rebase.h"

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kMaxLength = 64u << 10;

class File {
 public:
  explicit File(std::span<const std::byte> content)
      : fd_(::memfd_create("qcow2-fuzz", MFD_CLOEXEC)) {
    if (!fd_ || !write_all_at(fd_.get(), content, 0)) std::abort();
  }
  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_.get()); }

 private:
  UniqueFd fd_;
};

std::unique_ptr<Chain> open(const File& file, bool read_only) {
  DiskConfig config;
  config.path = file.path();
  config.format = ImageFormat::qcow2;
  config.read_only = read_only;
  auto chain = Chain::open(config, Chain::Follow::none);
  return chain ? std::move(*chain) : nullptr;
}

void work(Chain& chain, std::span<const std::uint8_t> script, bool writes) {
  std::vector<std::byte> data(kMaxLength, std::byte{0x5a});
  const iovec all{data.data(), data.size()};
  for (const std::uint8_t step : script) {
    Request request;
    request.operation = static_cast<Operation>(writes ? step % 5 : 0);
    request.may_unmap = (step & 0x20) != 0;
    const std::uint64_t sectors = chain.size() / kSectorSize;
    if (sectors == 0) return;
    // The start, the end, and places between.
    const std::uint64_t first = sectors / 8 * (step >> 5) + (step & 7);
    request.offset = std::min(first, sectors - 1) * kSectorSize;
    request.length = std::min<std::uint64_t>(
        {kMaxLength, chain.size() / kSectorSize * kSectorSize - request.offset,
         std::uint64_t{512} << (step % 8)});
    (void)chain.locate_data(request.offset, chain.size() - request.offset);
    const iovec buffer{all.iov_base, request.length};
    request.buffers = {&buffer, 1};
    (void)chain.perform(request);  // most fail; none may touch memory that is not its own
  }
}

}  // namespace
}  // namespace vmm::disk::qcow2

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  using namespace vmm::disk::qcow2;
  static const bool quiet = log::configure(log::Level::off, "").has_value();
  if (size < 8 || !quiet) return 0;
  const std::span<const std::uint8_t> input(data, size);
  const File file(std::as_bytes(input.subspan(8)));
  if (const auto chain = open(file, true)) work(*chain, input.first(8), false);
  if (const auto chain = open(file, false)) work(*chain, input.first(8), true);
  if (const auto chain = open(file, true)) work(*chain, input.first(8), false);
  (void)check_image(file.path());
  (void)check_image(file.path(), Repair::leaks);
  (void)rebase({.path = file.path(),
                .backing_path = "x",
                .backing_format = vmm::disk::ImageFormat::raw,
                .keeps_content = false});
  (void)open(file, true);
  return 0;
}
