// SocketBackend: frames through an Ethernet socket (src/user_net/wire.h) to a network process.
//
//   SocketBackend backend(std::move(socket));
//   TRY(backend.wait_ready());       // the process's own word that it is set up
//
// One queue pair: a network process is one thread.
#pragma once

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "devices/backend/net/backend.h"
#include "src/base/unique_fd.h"

namespace vmm::net {

class SocketBackend : public NetBackend {
 public:
  // `socket`: connected, SOCK_SEQPACKET.
  explicit SocketBackend(UniqueFd socket);
  // Connects to a network process that listens at `path`.
  static Result<std::unique_ptr<SocketBackend>> connect(const std::string& path);

  // Waits for the other side's Hello; its error when it could not be set up. The second call
  // returns at once.
  Result<void> wait_ready() override { return wait_ready(std::chrono::seconds(10)); }
  Result<void> wait_ready(std::chrono::milliseconds patience);

  unsigned queue_pairs() const override { return 1; }
  std::uint64_t features() const override;
  Result<void> start(std::uint64_t features) override;
  void stop() override;
  Result<void> set_offloads(std::uint64_t features) override;
  Result<void> set_active_pairs(unsigned) override { return {}; }
  int fd(unsigned) const override { return socket_.get(); }
  SendResult send(unsigned pair, std::span<const Frame> frames) override;
  ReceiveResult receive(unsigned pair, std::span<const iovec> buffers) override;

  ~SocketBackend() override = default;

 protected:
  // The other side is gone; called once.
  virtual void closed() {}
  // False when nothing came in time.
  static bool wait_for(int fd, short events, std::chrono::milliseconds patience);
  // Goes on with another socket, whose Hello is yet to come.
  void adopt(UniqueFd socket);
  // Waits a little where the other side is slow.
  Result<void> send_message(const void* message, std::size_t size) const;
  void shut() { socket_.reset(); }

 private:
  static constexpr std::size_t kBatch = 64;
  IoState notice_closed();
  Result<void> send_control(bool active, std::uint64_t features) const;

  UniqueFd socket_;
  bool ready_ = false;
  bool closed_ = false;
  std::array<mmsghdr, kBatch> messages_{};
};

}  // namespace vmm::net
