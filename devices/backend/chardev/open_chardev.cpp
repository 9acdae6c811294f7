// The kinds of consoles that need no more than descriptors, and the choice among all kinds.
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <termios.h>

#include "devices/backend/chardev/chardev.h"
#include "devices/backend/chardev/log_file.h"
#include "devices/backend/chardev/terminal.h"
#include "src/base/acceptor.h"
#include "src/base/unix_socket.h"

namespace vmm::chardev {
namespace {

class FileConsole : public Chardev {
 public:
  FileConsole(EventLoop& loop, LogFile file, std::string path)
      : Chardev(loop), file_(std::move(file)), path_(std::move(path)) {
    attach(-1, file_.fd());
  }
  ~FileConsole() override { detach(); }

 protected:
  ssize_t put(int /*output*/, std::span<const std::byte> bytes) override {
    return file_.append(bytes);
  }
  std::string name() const override { return fmt::format("'{}'", path_); }

 private:
  LogFile file_;
  const std::string path_;
};

// The master of a pseudo-terminal. The slave is kept open too, so that nobody's leaving hangs the
// line up.
class Pty : public Chardev {
 public:
  static Result<std::unique_ptr<Chardev>> open(EventLoop& loop) {
    UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    if (!master || ::grantpt(master.get()) < 0 || ::unlockpt(master.get()) < 0) {
      return fail_errno("cannot make a pseudo-terminal");
    }
    char name[64];
    if (::ptsname_r(master.get(), name, sizeof name) != 0) {
      return fail_errno("cannot name a pseudo-terminal");
    }
    auto slave = TRY(open_file(name, O_RDWR | O_NOCTTY | O_NONBLOCK));
    termios mode;
    if (tcgetattr(slave.get(), &mode) == 0) {
      cfmakeraw(&mode);
      (void)tcsetattr(slave.get(), TCSANOW, &mode);  // cooked works too, with an echo
    }
    // check: unlimited-log allowed, at the start
    fmt::print(stderr, "vmm: the serial console is {}\n", name);
    return std::unique_ptr<Chardev>(new Pty(loop, std::move(master), std::move(slave)));
  }
  ~Pty() override { detach(); }

 private:
  Pty(EventLoop& loop, UniqueFd master, UniqueFd slave)
      : Chardev(loop), master_(std::move(master)), slave_(std::move(slave)) {
    attach(master_.get(), master_.get());
  }
  UniqueFd master_;
  UniqueFd slave_;
};

// A client that closes its writing end goes on listening; one that is gone makes way for the next.
class SocketConsole : public Chardev {
 public:
  static Result<std::unique_ptr<Chardev>> open(const std::string& path, EventLoop& loop) {
    auto listener = TRY(UnixListener::create(path));
    std::unique_ptr<SocketConsole> console(new SocketConsole(loop, std::move(listener)));
    TRY(console->acceptor_.start());
    return std::unique_ptr<Chardev>(std::move(console));
  }
  ~SocketConsole() override { detach(); }

 protected:
  void on_end_of_input() override {
    if (hung_up()) drop_client();
  }

 private:
  SocketConsole(EventLoop& loop, UnixListener listener)
      : Chardev(loop),
        listener_(std::move(listener)),
        acceptor_(loop, listener_.fd(), [this](UniqueFd next) { take_client(std::move(next)); }) {}
  void take_client(UniqueFd next) {
    // While its input waits for the guest, nobody looks whether a client still is there.
    if (client_ && hung_up()) {
      drain_input();
      drop_client();
    }
    if (client_) return;  // one at a time: the second is closed at once
    client_ = std::move(next);
    attach(client_.get(), client_.get());
  }
  bool hung_up() const {
    pollfd state{client_.get(), 0, 0};
    return ::poll(&state, 1, 0) > 0;
  }
  void drop_client() {
    detach();
    client_.reset();
  }
  UnixListener listener_;
  Acceptor acceptor_;
  UniqueFd client_;
};

}  // namespace

Result<std::unique_ptr<Chardev>> open_chardev(const SerialSpec& spec, EventLoop& loop,
                                              TerminalActions actions) {
  switch (spec.kind) {
    case Kind::none:
      return std::unique_ptr<Chardev>();
    case Kind::stdio:
      return std::unique_ptr<Chardev>(new Terminal(loop, std::move(actions)));
    case Kind::file: {
      auto file = TRY(LogFile::open(spec.path, spec.max));
      return std::unique_ptr<Chardev>(new FileConsole(loop, std::move(file), spec.path));
    }
    case Kind::pty:
      return Pty::open(loop);
    case Kind::socket:
      return SocketConsole::open(spec.path, loop);
  }
  return fail("unknown serial kind {}", static_cast<int>(spec.kind));
}

}  // namespace vmm::chardev
