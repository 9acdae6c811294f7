#include "src/base/read_large.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "src/base/thread.h"
#include "src/base/unique_fd.h"

namespace vmm {
namespace {

// A huge page: no two threads touch the same one first.
constexpr std::uint64_t kPiece = 2u << 20;
constexpr std::size_t kMostThreads = 4;

}  // namespace

Result<void> read_large_at(int fd, std::span<std::byte> buffer, std::uint64_t offset) {
  const auto begin = reinterpret_cast<std::uintptr_t>(buffer.data());
  const std::uint64_t first = begin / kPiece;
  const std::uint64_t pieces = (begin + buffer.size() + kPiece - 1) / kPiece - first;
  const std::size_t threads = std::min<std::size_t>(
      {kMostThreads, std::thread::hardware_concurrency(), buffer.size() / kPiece});
  if (threads < 2) return read_exact_at(fd, buffer, offset);

  std::atomic<std::uint64_t> next = 0;
  const auto work = [&]() -> Result<void> {
    for (std::uint64_t piece = next++; piece < pieces; piece = next++) {
      const std::uint64_t from = std::max<std::uint64_t>(begin, (first + piece) * kPiece) - begin;
      const std::uint64_t to =
          std::min<std::uint64_t>((first + piece + 1) * kPiece - begin, buffer.size());
      TRY(read_exact_at(fd, buffer.subspan(from, to - from), offset + from));
    }
    return {};
  };
  std::vector<Background<void>> helpers;
  helpers.reserve(threads - 1);
  while (helpers.size() < threads - 1) {
    auto helper = Background<void>::start("read", work);
    if (!helper) break;  // no more threads are permitted: those that run do it all
    helpers.push_back(std::move(*helper));
  }
  Result<void> result = work();
  for (auto& helper : helpers) {
    if (auto done = helper.get(); result) result = std::move(done);
  }
  return result;
}

}  // namespace vmm
