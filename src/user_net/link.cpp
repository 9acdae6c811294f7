#include "src/user_net/link.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

namespace vmm::user_net {
namespace {

// libslirp is not asked for more while frames wait, so only acknowledgements add to these.
constexpr std::size_t kMostWaiting = 8u << 20;
constexpr int kSocketBuffer = 512 << 10;

}  // namespace

Link::Link(UniqueFd socket) : socket_(std::move(socket)), buffers_(kBatch * kMaxFrame) {
  // Failing, they leave what the host gives by default.
  (void)::setsockopt(fd(), SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof kSocketBuffer);
  (void)::fcntl(fd(), F_SETFL, ::fcntl(fd(), F_GETFL) | O_NONBLOCK);
  for (std::size_t i = 0; i < kBatch; ++i) {
    vectors_[i] = {buffers_.data() + i * kMaxFrame, kMaxFrame};
    messages_[i].msg_hdr.msg_iov = &vectors_[i];
    messages_[i].msg_hdr.msg_iovlen = 1;
  }
}

void Link::greet(std::string_view error, std::string_view note) {
  Hello hello;
  hello.failed = error.empty() ? 0 : 1;
  const auto text = error.empty() ? note : error;
  const iovec parts[] = {{&hello, sizeof hello}, {const_cast<char*>(text.data()), text.size()}};
  (void)send_now(parts);  // a machine that is gone is noticed when reading
}

Link::Received Link::receive(const std::function<void(std::span<std::byte> message)>& handler) {
  const int n = ::recvmmsg(fd(), messages_.data(), kBatch, MSG_DONTWAIT, nullptr);
  if (n < 0) return errno == EAGAIN || errno == EINTR ? Received::all : Received::gone;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    const std::size_t size = messages_[i].msg_len;
    if (size == 0) return Received::gone;
    if ((messages_[i].msg_hdr.msg_flags & MSG_TRUNC) != 0) continue;
    handler(std::span(buffers_).subspan(i * kMaxFrame, size));
  }
  return n == kBatch ? Received::some : Received::all;
}

bool Link::send_now(std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  for (;;) {
    if (::sendmsg(fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
    if (errno == EINTR) continue;
    // Only a full socket is worth another try; the end of the machine is noticed when reading.
    return errno != EAGAIN;
  }
}

void Link::send(const Header& header, std::span<const std::byte> frame) {
  if (congested()) return keep(header, frame);
  const std::size_t size = kHeaderSize + frame.size();
  if (size <= kSmall) {
    auto& slot = gathered_[gathered_count_];
    std::memcpy(slot.data(), &header, kHeaderSize);
    std::memcpy(slot.data() + kHeaderSize, frame.data(), frame.size());
    gathered_size_[gathered_count_] = size;
    if (++gathered_count_ == kGathered) flush_gathered();
    return;
  }
  flush_gathered();
  const iovec parts[] = {{const_cast<Header*>(&header), kHeaderSize},
                         {const_cast<std::byte*>(frame.data()), frame.size()}};
  if (congested() || !send_now(parts)) keep(header, frame);
}

void Link::keep(const Header& header, std::span<const std::byte> frame) {
  if (waiting_bytes_ + frame.size() > kMostWaiting) {
    ++dropped_;
    return;
  }
  std::vector<std::byte> message(kHeaderSize + frame.size());
  std::memcpy(message.data(), &header, kHeaderSize);
  std::memcpy(message.data() + kHeaderSize, frame.data(), frame.size());
  waiting_bytes_ += message.size();
  waiting_.push_back(std::move(message));
}

void Link::flush_gathered() {
  std::array<mmsghdr, kGathered> messages{};
  std::array<iovec, kGathered> vectors;
  for (std::size_t i = 0; i < gathered_count_; ++i) {
    vectors[i] = {gathered_[i].data(), gathered_size_[i]};
    messages[i].msg_hdr.msg_iov = &vectors[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  std::size_t done = 0;
  while (done < gathered_count_) {
    const int n = ::sendmmsg(fd(), &messages[done], static_cast<unsigned>(gathered_count_ - done),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
      done += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      ++done;
    }
  }
  for (; done < gathered_count_; ++done) {
    Header header;
    std::memcpy(&header, gathered_[done].data(), kHeaderSize);
    keep(header,
         std::span(gathered_[done]).subspan(kHeaderSize, gathered_size_[done] - kHeaderSize));
  }
  gathered_count_ = 0;
}

void Link::flush_waiting() {
  while (!waiting_.empty()) {
    const iovec part{waiting_.front().data(), waiting_.front().size()};
    if (!send_now({&part, 1})) return;
    waiting_bytes_ -= waiting_.front().size();
    waiting_.pop_front();
  }
}

void Link::flush() {
  if (gathered_count_ != 0) flush_gathered();
  flush_waiting();
}

}  // namespace vmm::user_net
