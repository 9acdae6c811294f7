// AcceptPause: listening sockets whose connections cannot be accepted, as there is no descriptor
// for them. They can be read all the time: who polls them leaves them out for a while, or this
// process would do nothing else. Connections wait in their backlogs.
//
// libslirp accepts connections itself, and keeps the error to itself. So accept() of this program
// comes before that of the C library, for libslirp too (as bind() does, handed_socket.h), and notes
// it here.
#pragma once

#include <cstdint>
#include <vector>

namespace vmm::user_net {

class AcceptPause {
 public:
  static constexpr std::int64_t kMs = 100;

  // Of the thread that accepts.
  static AcceptPause& own();

  // A connection could not be accepted there.
  void note(int listener) { listeners_.push_back(listener); }
  // Before each poll: begins for those that were noted, or ends when it is over. Returns the
  // milliseconds until it ends; -1: there is none.
  std::int64_t turn(std::int64_t now_ms);
  bool covers(int listener) const;

 private:
  std::vector<int> listeners_;
  std::int64_t end_ms_ = -1;  // -1: has not begun
};

}  // namespace vmm::user_net
