// StreamSocket: raw bytes both ways over a socket in an event loop.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "src/base/unique_fd.h"
#include "src/base/watch.h"

namespace vmm::engine {

class StreamSocket {
 public:
  struct Callbacks {
    std::function<void(std::string_view)> data;
    std::function<void()> ended;    // nothing comes any more
    std::function<void()> written;  // what was to be written is written, or nobody takes it
  };
  StreamSocket(EventLoop& loop, UniqueFd socket, Callbacks callbacks);

  void write(std::string_view bytes);
  void end_writing();  // a half-close, behind what was written
  std::size_t pending() const { return out_.size(); }
  void set_reading(bool on);
  bool has_ended() const { return ended_; }

 private:
  void turn(std::uint32_t events);
  void flush();
  void update();

  UniqueFd socket_;
  Callbacks callbacks_;
  std::string out_;
  bool reading_ = true, ended_ = false, ending_ = false, broken_ = false;
  Watch watch_;
};

}  // namespace vmm::engine
