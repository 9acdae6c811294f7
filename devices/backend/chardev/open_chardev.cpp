// The kinds of consoles that need no more than descriptors, and the choice among all kinds.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <termios.h>

#include "devices/backend/chardev/chardev.h"
#include "devices/backend/chardev/terminal.h"
#include "src/base/log.h"
#include "src/base/unix_socket.h"

namespace vmm::chardev {
namespace {

class FileConsole : public Chardev {
 public:
  FileConsole(EventLoop& loop, UniqueFd file) : Chardev(loop), file_(std::move(file)) {
    attach(-1, file_.get());
  }
  ~FileConsole() override { detach(); }

 private:
  UniqueFd file_;
};

// The master of a pseudo-terminal. The slave is kept open too, so that nobody's leaving hangs the
// line up.
class Pty : public Chardev {
 public:
  static Result<std::unique_ptr<Chardev>> open(EventLoop& loop) {
    UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!master || ::grantpt(master.get()) < 0 || ::unlockpt(master.get()) < 0) {
      return fail_errno("cannot make a pseudo-terminal");
    }
    char name[64];
    if (::ptsname_r(master.get(), name, sizeof name) != 0) {
      return fail_errno("cannot name a pseudo-terminal");
    }
    auto slave = TRY(open_file(name, O_RDWR | O_NOCTTY));
    termios mode;
    if (tcgetattr(slave.get(), &mode) == 0) {
      cfmakeraw(&mode);
      (void)tcsetattr(slave.get(), TCSANOW, &mode);  // cooked works too, with an echo
    }
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

class SocketConsole : public Chardev {
 public:
  static Result<std::unique_ptr<Chardev>> open(const std::string& path, EventLoop& loop) {
    auto listener = TRY(UnixListener::create(path));
    std::unique_ptr<SocketConsole> console(new SocketConsole(loop, std::move(listener)));
    TRY(loop.watch(console->listener_.fd(), EPOLLIN,
                   [raw = console.get()](std::uint32_t) { raw->accept_client(); }));
    return std::unique_ptr<Chardev>(std::move(console));
  }
  ~SocketConsole() override {
    detach();
    loop().forget(listener_.fd());
  }

 protected:
  void on_end_of_input() override {
    detach();
    client_.reset();
  }

 private:
  SocketConsole(EventLoop& loop, UnixListener listener)
      : Chardev(loop), listener_(std::move(listener)) {}
  void accept_client() {
    auto next = listener_.accept();
    if (!next || client_) return;  // one at a time: the second is closed at once
    client_ = std::move(next);
    attach(client_.get(), client_.get());
  }
  UnixListener listener_;
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
      auto file = TRY(open_file(spec.path, O_WRONLY | O_CREAT | O_TRUNC));
      return std::unique_ptr<Chardev>(new FileConsole(loop, std::move(file)));
    }
    case Kind::pty:
      return Pty::open(loop);
    case Kind::socket:
      return SocketConsole::open(spec.path, loop);
  }
  return fail("serial kind {} is not known", static_cast<int>(spec.kind));
}

}  // namespace vmm::chardev
