#include "src/hypervisor/snapshot/page_server.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

#include "src/hypervisor/snapshot/userfaultfd.h"

namespace vmm::snapshot {
namespace {

constexpr std::uint64_t kPage = kArchivePage;
constexpr std::uint64_t kFrame = kMaxFramePages * kPage;  // at most
constexpr std::uint64_t kHugePage = 2u << 20;
// Each registered extent may be a mapping of its own, of 65530 by default (vm.max_map_count).
constexpr std::size_t kMaxExtents = 10'000;

// What a call that puts pages in came to: bytes, or less than zero an errno.
std::int64_t outcome(int result, std::int64_t done, std::uint64_t size) {
  if (result == 0) return static_cast<std::int64_t>(size);
  return done > 0 ? done : -errno;
}

// Puts in [0, size) by `call(at, length)`. What is there already, or mapped anew, stays as it is.
template <typename Call>
Result<void> put_in(std::uint64_t size, Call call) {
  std::uint64_t step = size;
  for (std::uint64_t at = 0; at < size;) {
    const std::uint64_t length = std::min(step, size - at);
    const std::int64_t done = call(at, length);
    if (done > 0) {
      at += static_cast<std::uint64_t>(done);
    } else if (done == -EEXIST || done == -EFAULT) {  // a page, a huge page
      at += kPage;
    } else if (done == -ENOENT && length > kPage) {
      step = kPage;  // some of it is not of the registered mapping
    } else if (done == -ENOENT) {
      at += kPage;
    } else if (done != -EAGAIN) {
      errno = static_cast<int>(-done);
      return fail_errno("cannot put a page into the guest's memory");
    }
  }
  return {};
}

}  // namespace

PageServer::PageServer(std::shared_ptr<const PackedMemory> packed, const GuestMemory& memory,
                       OnDamage on_damage)
    : regions_(memory.regions().begin(), memory.regions().end()),
      on_damage_(std::move(on_damage)),
      packed_(std::move(packed)),
      served_(packed_->frames()) {}

PageServer::~PageServer() = default;

Result<std::unique_ptr<PageServer>> PageServer::start(std::shared_ptr<const PackedMemory> packed,
                                                      GuestMemory& memory, OnDamage on_damage) {
  std::unique_ptr<PageServer> server(
      new PageServer(std::move(packed), memory, std::move(on_damage)));
  TRY(server->open());
  memory.mark_served();
  return server;
}

Result<void> PageServer::open() {
  faults_ = TRY(open_userfaultfd(FaultsOf::program_and_kernel, 0));
  for (const auto& extent : packed_->extents(kHugePage, kMaxExtents)) {
    for (const auto& region : regions_) {
      const auto piece = region.piece(extent.offset, extent.length);
      if (!piece.bytes.empty()) TRY(serve(piece.bytes));
    }
  }
  worker_ = TRY(Worker::start("pages"));
  Result<void> watched;
  worker_->loop().call([&] {
    watched = worker_->loop().watch(faults_.get(), EPOLLIN, [this](std::uint32_t) { on_faults(); });
  });
  return watched;
}

Result<void> PageServer::serve(std::span<const std::byte> pages) const {
  constexpr std::uint64_t kNeeded =
      1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE | 1ull << _UFFDIO_WAKE;
  const auto calls = TRY(register_pages(faults_, pages, UFFDIO_REGISTER_MODE_MISSING));
  if ((calls & kNeeded) != kNeeded) return fail("userfaultfd: a call is missing");
  return {};
}

void PageServer::on_faults() {
  std::array<uffd_msg, 16> messages;
  const ssize_t n = ::read(faults_.get(), messages.data(), sizeof messages);
  if (n <= 0) return;  // whoever waited was woken meanwhile
  for (const auto& message :
       std::span(messages).first(static_cast<std::size_t>(n) / sizeof(uffd_msg))) {
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    if (const auto served = serve(message.arg.pagefault.address); !served) {
      worker_->loop().forget(faults_.get());
      on_damage_(served.error().message());
      return;
    }
  }
}

Result<void> PageServer::serve(std::uint64_t address) {
  for (const auto& region : regions_) {
    const std::uint64_t offset = address - reinterpret_cast<std::uintptr_t>(region.host);
    if (offset >= region.range.size) continue;
    const std::uint64_t page = (region.flat_offset + offset) / kPage;
    const auto frame = packed_->frame_of(page);
    if (!frame) {
      constexpr std::uint64_t kWindow = kHugePage / kPage;
      const std::uint64_t begin = region.flat_offset / kPage;
      const auto zeroes = packed_->zeroes_around(
          page, std::max(begin, page / kWindow * kWindow),
          std::min(begin + region.range.size / kPage, (page / kWindow + 1) * kWindow));
      TRY(put_zeroes(zeroes.first, zeroes.count));
    } else if (!served_[*frame]) {
      TRY(put_frame(*frame, page));
    } else {
      TRY(put_zeroes(page, 1));  // it is there, or was given back
    }
    // Putting a page in wakes who waits for it; this is for where none was.
    uffdio_range woken{.start = address / kPage * kPage, .len = kPage};
    if (::ioctl(faults_.get(), UFFDIO_WAKE, &woken) < 0) return fail_errno("UFFDIO_WAKE");
  }
  return {};
}

// The piece that has the page `first` goes in before the others.
Result<void> PageServer::put_frame(std::size_t frame, std::optional<std::uint64_t> first) {
  const auto decoded = TRY(packed_->decode(frame));
  const auto holds_first = [&](std::uint64_t page, std::span<const std::byte> bytes) {
    return first && *first >= page && *first - page < bytes.size() / kPage;
  };
  for (const bool wanted : {true, false}) {
    TRY(packed_->for_each_piece(
        frame, decoded, [&](std::uint64_t page, std::span<const std::byte> bytes) -> Result<void> {
          return holds_first(page, bytes) == wanted ? put(page, bytes) : Result<void>();
        }));
  }
  served_[frame] = true;
  return {};
}

Result<void> PageServer::put(std::uint64_t page, std::span<const std::byte> bytes) const {
  for (const auto& region : regions_) {
    const auto piece = region.piece(page * kPage, bytes.size());
    if (piece.bytes.empty()) continue;
    const std::byte* source = bytes.data() + (piece.offset - page * kPage);
    TRY(put_in(piece.bytes.size(), [&](std::uint64_t at, std::uint64_t length) {
      uffdio_copy copy{.dst = reinterpret_cast<std::uintptr_t>(piece.bytes.data()) + at,
                       .src = reinterpret_cast<std::uintptr_t>(source) + at,
                       .len = length,
                       .mode = 0,
                       .copy = 0};
      return outcome(::ioctl(faults_.get(), UFFDIO_COPY, &copy), copy.copy, length);
    }));
  }
  return {};
}

Result<void> PageServer::put_zeroes(std::uint64_t page, std::uint64_t count) const {
  for (const auto& region : regions_) {
    const auto piece = region.piece(page * kPage, count * kPage);
    if (piece.bytes.empty()) continue;
    TRY(put_in(piece.bytes.size(), [&](std::uint64_t at, std::uint64_t length) {
      uffdio_zeropage zero{
          .range = {.start = reinterpret_cast<std::uintptr_t>(piece.bytes.data()) + at,
                    .len = length},
          .mode = 0,
          .zeropage = 0};
      return outcome(::ioctl(faults_.get(), UFFDIO_ZEROPAGE, &zero), zero.zeropage, length);
    }));
  }
  return {};
}

Result<void> PageServer::finish(Progress& progress) {
  const auto done = std::make_shared<Done>();
  auto result = done->get_future();
  progress.begin("unpacking memory", served_.size() * kFrame);
  worker_->loop().post([this, done, &progress] { finish_step(done, progress); });
  return result.get();
}

// A frame at a time: faults come first.
void PageServer::finish_step(const std::shared_ptr<Done>& done, Progress& progress) {
  const std::size_t begin = next_;
  while (next_ < served_.size() && (served_[next_] || !packed_->has_pieces(next_))) ++next_;
  if (auto told = progress.advance((next_ - begin) * kFrame); !told) {
    return done->set_value(std::move(told));
  }
  if (next_ == served_.size()) return done->set_value({});
  if (auto put = put_frame(next_, std::nullopt); !put) return done->set_value(std::move(put));
  worker_->loop().post([this, done, &progress] { finish_step(done, progress); });
}

}  // namespace vmm::snapshot
