#include "src/disk/qcow2/layer.h"

#include <fcntl.h>

#include "src/base/zero.h"
#include "src/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {
namespace {

class LayerTarget : public CopyTarget {
 public:
  LayerTarget(std::unique_ptr<Chain> chain, std::string path)
      : CopyTarget(std::move(path)), chain_(std::move(chain)) {}

  Result<void> write(std::uint64_t offset, std::span<const std::byte> chunk) override {
    if (const int error = chain_->top().flush_when_due(); error != 0) return failed(error);
    return failed(is_zero(chunk) ? write_zeroes(offset) : chain_->write(offset, chunk));
  }
  Result<void> finish() override {
    const int error = chain_->flush();
    chain_.reset();
    return failed(error);
  }

 private:
  // Whatever is behind it must not be seen; the chain, which is not followed, knows of nothing.
  int write_zeroes(std::uint64_t offset) {
    return chain_->top().unlink(offset / CopiedDisk::kChunk, 1, Image::Leaves::zeroes);
  }
  static Result<void> failed(int error) {
    if (error != 0) return fail_errno_text(error, "the layer");
    return {};
  }

  std::unique_ptr<Chain> chain_;
};

}  // namespace

Result<std::unique_ptr<CopyTarget>> copy_to_layer(CreateOptions options) {
  options.cluster_size = CopiedDisk::kChunk;
  {
    const auto file = TRY(open_file(options.path, O_WRONLY));
    TRY(write_empty_image(file.get(), options));
  }
  return std::make_unique<LayerTarget>(
      TRY(Chain::open({.path = options.path, .format = ImageFormat::qcow2}, Chain::Follow::none)),
      options.path);
}

}  // namespace vmm::disk::qcow2
