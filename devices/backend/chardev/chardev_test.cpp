#include "devices/backend/chardev/chardev.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include <csignal>
#include <thread>

#include "devices/backend/chardev/terminal.h"
#include "src/base/unix_socket.h"
#include "src/base/worker.h"

namespace vmm::chardev {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string read_some(int fd, std::size_t count) {
  std::string text(count, '\0');
  std::size_t done = 0;
  while (done < count) {
    const ssize_t n = ::read(fd, text.data() + done, count - done);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  return text;
}

struct TempDir {
  TempDir() { EXPECT_NE(::mkdtemp(path), nullptr); }
  ~TempDir() { (void)std::system(fmt::format("rm -rf {}", path).c_str()); }
  char path[32] = "/tmp/vmm-chardev-XXXXXX";
};

TEST(SerialSpec, ParsesAndRefuses) {
  EXPECT_EQ(parse_serial_spec("stdio")->kind, Kind::stdio);
  EXPECT_EQ(parse_serial_spec("file:/a:b")->path, "/a:b");
  EXPECT_EQ(format_serial_spec(*parse_serial_spec("socket:/x")), "socket:/x");
  for (const char* bad : {"", "file", "file:", "stdio:/x", "sockt:/x"}) {
    const auto result = parse_serial_spec(bad);
    ASSERT_FALSE(result) << bad;
    EXPECT_NE(result.error().message().find(fmt::format("'{}'", bad)), std::string::npos);
  }
  EXPECT_NE(parse_serial_spec("sockt:/x").error().message().find("'socket'"), std::string::npos);
}

TEST(Chardev, FileGetsTheOutput) {
  TempDir dir;
  const std::string path = fmt::format("{}/out", dir.path);
  auto worker = std::move(Worker::start("test").value());
  {
    auto console = std::move(open_chardev({Kind::file, path}, worker->loop(), {}).value());
    console->write(bytes_of("hello\n"));
  }
  EXPECT_EQ(*read_text_file(path), "hello\n");
}

TEST(Chardev, SocketServesOneClientAtATimeAndHoldsInputBack) {
  TempDir dir;
  const std::string path = fmt::format("{}/console", dir.path);
  auto worker = std::move(Worker::start("test").value());
  auto console = std::move(open_chardev({Kind::socket, path}, worker->loop(), {}).value());
  struct stat status;
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  console->write(bytes_of("nobody hears this"));
  std::string got;
  std::size_t room = 2;
  worker->loop().call([&] {
    console->set_receiver([&](std::span<const std::byte> bytes) {
      const std::size_t taken = std::min(room, bytes.size());
      for (std::size_t i = 0; i < taken; ++i) got += static_cast<char>(bytes[i]);
      room -= taken;
      return taken;
    });
  });
  for (int round = 0; round < 2; ++round) {
    auto client = std::move(connect_unix(path).value());
    ASSERT_TRUE(write_all(client.get(), bytes_of("abcd")));
    // Output reaches the client once it is accepted, which its input proves.
    const auto wanted = std::string(round == 0 ? "ab" : "abcdab");
    for (int i = 0; i < 1000; ++i) {
      std::string now;
      worker->loop().call([&] { now = got; });
      if (now == wanted) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    console->write(bytes_of("out"));
    EXPECT_EQ(read_some(client.get(), 3), "out");
    worker->loop().call([&] {
      EXPECT_EQ(got, wanted);
      room = 100;
    });
    console->resume_input();
    for (int i = 0; i < 1000; ++i) {
      bool all = false;
      worker->loop().call([&] { all = got == wanted + "cd"; });
      if (all) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    worker->loop().call([&] {
      EXPECT_EQ(got, wanted + "cd");
      room = 2;
    });
    client.reset();
    // The next round's connect is queued until this one's end was seen; give it that.
    worker->loop().call([] {});
    worker->loop().call([] {});
  }
  worker->loop().call([&] { console.reset(); });
  EXPECT_NE(::stat(path.c_str(), &status), 0) << "the socket is removed";
}

// The terminal lives in a child whose controlling terminal is a fresh pseudo-terminal.
TEST(Terminal, EscapeKeysAndRestoredMode) {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(master);
  ASSERT_EQ(::grantpt(master.get()), 0);
  ASSERT_EQ(::unlockpt(master.get()), 0);
  auto slave = std::move(open_file(::ptsname(master.get()), O_RDWR | O_NOCTTY).value());
  termios before;
  ASSERT_EQ(tcgetattr(slave.get(), &before), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::dup2(slave.get(), 0);
    ::dup2(slave.get(), 1);
    auto loop = std::move(EventLoop::create().value());
    std::string got;
    bool button = false;
    auto console = std::move(
        open_chardev({Kind::stdio, ""}, *loop,
                     {.power_button = [&] { button = true; },
                      .quit = [&] { std::raise(got == "a\x01z" && button ? SIGSEGV : SIGKILL); }})
            .value());
    console->set_receiver([&](std::span<const std::byte> bytes) {
      for (const auto byte : bytes) got += static_cast<char>(byte);
      console->write(bytes);  // an echo
      return bytes.size();
    });
    console->write(bytes_of("ready"));
    loop->run();
    ::_exit(0);
  }
  EXPECT_EQ(read_some(master.get(), 5), "ready");
  ASSERT_TRUE(write_all(master.get(), bytes_of("a\x01\x01\x01pz")));
  EXPECT_EQ(read_some(master.get(), 3), "a\x01z");
  ASSERT_TRUE(write_all(master.get(), bytes_of("\x01x")));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSEGV) << "the keys were not what they should be";
  termios after;
  ASSERT_EQ(tcgetattr(slave.get(), &after), 0);
  EXPECT_EQ(before.c_lflag, after.c_lflag) << "the mode is back although a signal killed it";
}

}  // namespace
}  // namespace vmm::chardev
