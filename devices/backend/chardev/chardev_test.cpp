#include "devices/backend/chardev/chardev.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "devices/backend/chardev/log_file.h"
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
  EXPECT_EQ(parse_serial_spec("socket:/x")->path, "/x");
  EXPECT_EQ(parse_serial_spec("file:/a,b")->path, "/a,b");
  EXPECT_EQ(parse_serial_spec("file:/a,b")->max, 16u << 20);
  EXPECT_EQ(parse_serial_spec("file:/a,b,max=1M")->path, "/a,b");
  EXPECT_EQ(parse_serial_spec("file:/a,b,max=1M")->max, 1u << 20);
  EXPECT_EQ(parse_serial_spec("file:/a,max=off")->max, 0u);
  for (const char* bad :
       {"file:/a,max=", "file:/a,max=x", "file:/a,max=1K", "file:/a,max=0", "file:,max=1M"}) {
    EXPECT_FALSE(parse_serial_spec(bad)) << bad;
  }
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

// A console of two descriptors.
class Plain : public Chardev {
 public:
  Plain(EventLoop& loop, int input, int output) : Chardev(loop) { attach(input, output); }
  ~Plain() override { detach(); }
};

std::unique_ptr<Chardev> open_socket(Worker& worker, const std::string& path) {
  std::unique_ptr<Chardev> console;
  worker.loop().call([&] {
    console =
        std::move(open_chardev({.kind = Kind::socket, .path = path}, worker.loop(), {}).value());
  });
  return console;
}

// Until it holds, on the loop's thread.
void wait_for(EventLoop& loop, const std::function<bool()>& condition) {
  bool holds = false;
  for (int i = 0; i < 5000 && !holds; ++i) {
    loop.call([&] { holds = condition(); });
    if (!holds) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(holds);
}

// The first end is for reading.
std::pair<UniqueFd, UniqueFd> make_pipe() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::size_t readable(int fd) {
  int count = 0;
  EXPECT_EQ(::ioctl(fd, FIONREAD, &count), 0);
  return static_cast<std::size_t>(count);
}

TEST(Chardev, AReaderThatStallsCostsOneWait) {
  auto loop = std::move(EventLoop::create().value());
  const auto [reader, writer] = make_pipe();
  Plain console(*loop, -1, writer.get());
  const std::string batch(16, 'x');
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 8000; ++i) console.write(bytes_of(batch));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  (void)read_some(reader.get(), readable(reader.get()));
  console.write(bytes_of("it reads again"));
  EXPECT_EQ(read_some(reader.get(), 14), "it reads again");
}

// POLLOUT of a terminal or a socket does not say for how much there is room.
TEST(Chardev, AReaderThatStallsNeverBlocksAWrite) {
  auto loop = std::move(EventLoop::create().value());
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(master && ::grantpt(master.get()) == 0 && ::unlockpt(master.get()) == 0);
  const auto slave = std::move(open_file(::ptsname(master.get()), O_RDWR | O_NOCTTY).value());
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd left(ends[0]), right(ends[1]);
  const auto own = own_output(slave.get());
  ASSERT_TRUE(own);
  EXPECT_FALSE(own_output(left.get()));
  for (const int output : {own.get(), left.get()}) {
    Plain console(*loop, -1, output);
    for (int i = 0; i < 1000; ++i) console.write(bytes_of(std::string(1021, 'x')));
  }
  EXPECT_GT(readable(right.get()), 1000u);
}

TEST(Chardev, AnInputThatIsAFileIsReadToItsEnd) {
  TempDir dir;
  const std::string path = fmt::format("{}/commands", dir.path);
  std::string commands;
  for (int i = 0; i < 1000; ++i) commands += fmt::format("command {}\n", i);
  std::ofstream(path) << commands;
  for (const auto& [name, text] :
       {std::pair<std::string, std::string>{path, commands}, {"/dev/null", ""}}) {
    const auto file = std::move(open_file(name, O_RDONLY).value());
    auto worker = std::move(Worker::start("test").value());
    std::string got;
    std::unique_ptr<Plain> console;
    worker->loop().call([&] {
      console = std::make_unique<Plain>(worker->loop(), file.get(), -1);
      console->set_receiver([&](std::span<const std::byte> bytes) {
        // A guest that takes some now and then.
        const auto some = bytes.first(std::min<std::size_t>(bytes.size(), 100));
        for (const auto byte : some) got += static_cast<char>(byte);
        console->resume_input();
        return some.size();
      });
    });
    wait_for(worker->loop(), [&, &wanted = text] { return got.size() >= wanted.size(); });
    worker->loop().call([&, &wanted = text] {
      EXPECT_EQ(got, wanted);
      console.reset();
    });
  }
}

TEST(Chardev, AFileIsAppendedToAndBeginsAnewAtItsLimit) {
  TempDir dir;
  const std::string path = fmt::format("{}/out", dir.path);
  std::ofstream(path) << "before\n";
  auto loop = std::move(EventLoop::create().value());
  const std::string line(1023, 'x');
  {
    const auto console = std::move(
        open_chardev({.kind = Kind::file, .path = path, .max = 64 << 10}, *loop, {}).value());
    console->write(bytes_of("first\n"));
    EXPECT_EQ(*read_text_file(path), "before\nfirst\n");
    for (int i = 0; i < 1000; ++i) {  // a flood: there are never more than two files of the limit
      console->write(bytes_of(line));
      ASSERT_LE(std::filesystem::file_size(path), 64u << 10);
    }
    console->write(bytes_of("last\n"));
  }
  EXPECT_LE(std::filesystem::file_size(path + ".1"), 64u << 10);
  EXPECT_GT(std::filesystem::file_size(path + ".1"), 60u << 10);
  EXPECT_TRUE(read_text_file(path)->ends_with("last\n"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path), {}), 2);
  const auto size = std::filesystem::file_size(path);
  {
    const auto console =
        std::move(open_chardev({.kind = Kind::file, .path = path, .max = 0}, *loop, {}).value());
    for (int i = 0; i < 100; ++i) console->write(bytes_of(line));
  }
  EXPECT_EQ(std::filesystem::file_size(path), size + 100 * line.size()) << "no limit";
}

TEST(LogFile, AnotherOneMayHaveRenamedOrEmptiedIt) {
  TempDir dir;
  const std::string path = fmt::format("{}/out", dir.path);
  auto one = std::move(LogFile::open(path, 64 << 10).value());
  auto two = std::move(LogFile::open(path, 64 << 10).value());
  const std::string most(60 << 10, 'x'), more(5 << 10, 'y');
  EXPECT_EQ(one.append(bytes_of(most)), ssize_t{60} << 10);
  EXPECT_EQ(one.append(bytes_of(more)), ssize_t{5} << 10);
  EXPECT_EQ(two.append(bytes_of(more)), ssize_t{5} << 10) << "to the old one, which it has open";
  EXPECT_EQ(two.append(bytes_of(most)), ssize_t{60} << 10) << "to the new one";
  EXPECT_EQ(std::filesystem::file_size(path), 65u << 10);
  EXPECT_EQ(std::filesystem::file_size(path + ".1"), 65u << 10) << "the old one is still there";
  std::filesystem::resize_file(path, 0);
  EXPECT_EQ(two.append(bytes_of("again")), 5);
  EXPECT_EQ(*read_text_file(path), "again");
  // It cannot be renamed: nothing grows.
  std::filesystem::remove(path + ".1");
  std::filesystem::create_directories(path + ".1/full");
  EXPECT_EQ(two.append(bytes_of(most)), ssize_t{60} << 10);
  EXPECT_EQ(two.append(bytes_of(more)), -1);
  EXPECT_EQ(std::filesystem::file_size(path), (60u << 10) + 5);
}

TEST(LogFile, OpeningItNeverWaits) {
  TempDir dir;
  const std::string fifo = fmt::format("{}/fifo", dir.path);
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  auto file = std::move(LogFile::open(fifo, 64 << 10).value());
  const auto reader = std::move(open_file(fifo, O_RDONLY | O_NONBLOCK).value());
  EXPECT_EQ(file.append(bytes_of("heard")), 5);
  EXPECT_EQ(read_some(reader.get(), 5), "heard");
  EXPECT_TRUE(LogFile::open("/dev/null", 64 << 10));
  EXPECT_FALSE(LogFile::open(dir.path, 64 << 10));
  EXPECT_FALSE(LogFile::open(fmt::format("{}/none/x", dir.path), 64 << 10));
  const auto socket = std::move(UnixListener::create(fmt::format("{}/socket", dir.path)).value());
  EXPECT_FALSE(LogFile::open(fmt::format("{}/socket", dir.path), 64 << 10));
}

TEST(Chardev, OutputThatIsLostIsSaidOnce) {
  auto loop = std::move(EventLoop::create().value());
  testing::internal::CaptureStderr();
  {
    const auto console =
        std::move(open_chardev({.kind = Kind::file, .path = "/dev/full"}, *loop, {}).value());
    for (int i = 0; i < 10'000; ++i) console->write(bytes_of("lost"));
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("'/dev/full': No space left on device"), std::string::npos) << said;
  EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
}

TEST(Chardev, AClientThatIsGoneMakesWay) {
  TempDir dir;
  const std::string path = fmt::format("{}/console", dir.path);
  auto worker = std::move(Worker::start("test").value());
  auto console = open_socket(*worker, path);
  std::atomic<std::size_t> room = 1;
  std::string got;
  worker->loop().call([&] {
    console->set_receiver([&](std::span<const std::byte> bytes) {
      const std::size_t taken = std::min(room.load(), bytes.size());
      room -= taken;
      for (const auto byte : bytes.first(taken)) got += static_cast<char>(byte);
      return taken;
    });
  });
  {
    const auto client = std::move(connect_unix(path).value());
    ASSERT_TRUE(write_all(client.get(), bytes_of("1" + std::string(5000, '1'))));
    wait_for(worker->loop(), [&] { return !got.empty(); });
  }
  const auto second = std::move(connect_unix(path).value());
  ASSERT_TRUE(write_all(second.get(), bytes_of("2")));
  room = 1 << 20;
  console->resume_input();
  wait_for(worker->loop(), [&] { return got.ends_with('2'); });
  EXPECT_EQ(got.size(), 5002u);
  console->write(bytes_of("hello"));
  EXPECT_EQ(read_some(second.get(), 5), "hello");
  worker->loop().call([&] { console.reset(); });
}

// A guest that reads nothing, and clients that come, talk and go.
TEST(Chardev, WhatClientsLeaveBehindIsBounded) {
  TempDir dir;
  const std::string path = fmt::format("{}/console", dir.path);
  auto worker = std::move(Worker::start("test").value());
  auto console = open_socket(*worker, path);
  const std::string much(100'000, 'x');
  testing::internal::CaptureStderr();
  for (int i = 0; i < 30; ++i) {
    const auto client = std::move(connect_unix(path).value());
    ASSERT_TRUE(write_all(client.get(), bytes_of(much)));
    // In the second round of the loop at the latest it was let in.
    for (int round = 0; round < 2; ++round) worker->loop().call([] {});
  }
  const auto last = std::move(connect_unix(path).value());
  std::size_t got = 0;
  std::string end;
  worker->loop().call([&] {
    console->set_receiver([&](std::span<const std::byte> bytes) {
      got += bytes.size();
      end = static_cast<char>(bytes.back());
      return bytes.size();
    });
  });
  ASSERT_TRUE(write_all(last.get(), bytes_of("y")));
  wait_for(worker->loop(), [&] { return end == "y"; });
  EXPECT_NE(testing::internal::GetCapturedStderr().find("is lost"), std::string::npos);
  EXPECT_GE(got, 1u << 20);
  EXPECT_LE(got, (1u << 20) + 4096);
  worker->loop().call([&] { console.reset(); });
}

TEST(Chardev, AClientThatEndsItsInputGoesOnListening) {
  TempDir dir;
  const std::string path = fmt::format("{}/console", dir.path);
  auto worker = std::move(Worker::start("test").value());
  auto console = open_socket(*worker, path);
  std::string got;
  worker->loop().call([&] {
    console->set_receiver([&](std::span<const std::byte> bytes) {
      for (const auto byte : bytes) got += static_cast<char>(byte);
      return bytes.size();
    });
  });
  auto client = std::move(connect_unix(path).value());
  ASSERT_TRUE(write_all(client.get(), bytes_of("date\n")));
  ASSERT_EQ(::shutdown(client.get(), SHUT_WR), 0);
  wait_for(worker->loop(), [&] { return got == "date\n"; });
  // That it is turned away shows that the end before it was seen.
  const auto other = std::move(connect_unix(path).value());
  EXPECT_EQ(read_some(other.get(), 1), "");
  console->write(bytes_of("Sunday"));
  EXPECT_EQ(read_some(client.get(), 6), "Sunday");
  client.reset();
  const auto next = std::move(connect_unix(path).value());
  ASSERT_TRUE(write_all(next.get(), bytes_of("next")));
  wait_for(worker->loop(), [&] { return got == "date\nnext"; });
  worker->loop().call([&] { console.reset(); });
}

TEST(Chardev, SocketServesOneClientAtATimeAndHoldsInputBack) {
  TempDir dir;
  const std::string path = fmt::format("{}/console", dir.path);
  auto worker = std::move(Worker::start("test").value());
  auto console = open_socket(*worker, path);
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

// A pseudo-terminal, and a child on it whose terminal is raw while it runs `what`.
class TerminalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    master_ = UniqueFd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    ASSERT_TRUE(master_ && ::grantpt(master_.get()) == 0 && ::unlockpt(master_.get()) == 0);
    slave_ = std::move(open_file(::ptsname(master_.get()), O_RDWR | O_NOCTTY).value());
    ASSERT_EQ(tcgetattr(slave_.get(), &before_), 0);
  }
  // How it ended, as waitpid() says; a child that stops is ended.
  int run(const std::function<void()>& what) {
    const pid_t child = ::fork();
    if (child == 0) {
      const rlimit none{};
      (void)::setrlimit(RLIMIT_CORE, &none);
      // What whoever started the test ignores (a shell's job in the background: SIGINT) stays so.
      for (int signal = 1; signal <= SIGRTMAX; ++signal) (void)::signal(signal, SIG_DFL);
      ::setsid();
      ::dup2(slave_.get(), 0);
      ::dup2(slave_.get(), 1);
      ::ioctl(0, TIOCSCTTY, 0);
      auto loop = std::move(EventLoop::create().value());
      const Terminal terminal(*loop, {});
      termios now;
      if (tcgetattr(0, &now) < 0 || (now.c_lflag & ICANON) != 0) ::_exit(101);
      what();
      ::_exit(102);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, WUNTRACED), child);
    if (WIFSTOPPED(status)) {
      ::kill(child, SIGKILL);
      int end = 0;
      ::waitpid(child, &end, 0);
    }
    return status;
  }
  void expect_restored(const std::string& what) {
    termios after;
    ASSERT_EQ(tcgetattr(slave_.get(), &after), 0);
    EXPECT_EQ(before_.c_lflag, after.c_lflag) << what;
    EXPECT_EQ(before_.c_iflag, after.c_iflag) << what;
    EXPECT_EQ(before_.c_oflag, after.c_oflag) << what;
  }
  UniqueFd master_, slave_;
  termios before_{};
};

TEST_F(TerminalTest, EverySignalThatEndsItRestoresTheMode) {
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    if (signal > SIGSYS && signal < SIGRTMIN) continue;  // the C library's
    switch (signal) {
      case SIGKILL:
      case SIGSTOP:
      case SIGTSTP:
      case SIGTTIN:
      case SIGTTOU:
      case SIGCHLD:
      case SIGCONT:
      case SIGURG:
      case SIGWINCH:
      case SIGPIPE:
        continue;
    }
    const pid_t parent = ::getpid();
    const int status = run([signal, parent] {
      // From another process, as most of them come.
      const pid_t self = ::getpid();
      if (::fork() == 0) {
        ::kill(self, signal);
        ::_exit(0);
      }
      while (::getppid() == parent) ::pause();
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal)
        << signal << " ended it with " << status;
    expect_restored(fmt::format("after signal {}", signal));
  }
}

TEST_F(TerminalTest, AFaultOfAWorkerRestoresTheMode) {
  TempDir dir;
  const auto file =
      std::move(open_file(fmt::format("{}/empty", dir.path), O_RDWR | O_CREAT).value());
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT}) {
    const int status = run([&] {
      const auto worker = std::move(Worker::start("faulty").value());
      worker->loop().call([&] {
        if (signal == SIGABRT) std::abort();
        // Past a file's end, or what cannot be read at all.
        auto* page = static_cast<volatile char*>(::mmap(
            nullptr, 4096, signal == SIGBUS ? PROT_READ : PROT_NONE, MAP_SHARED, file.get(), 0));
        (void)*page;
      });
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal)
        << signal << " ended it with " << status;
    expect_restored(fmt::format("after signal {} of a worker", signal));
  }
}

// Uses up the stack of the thread that calls it.
volatile bool is_deep_enough = false;
int use_up_stack(int depth) {
  if (is_deep_enough) return depth;
  volatile char room[4096];
  room[0] = static_cast<char>(depth);
  return use_up_stack(depth + 1) + room[0];
}

TEST_F(TerminalTest, AStackThatIsUsedUpRestoresTheMode) {
  for (const bool on_worker : {false, true}) {
    const int status = run([&] {
      if (!on_worker) ::_exit(use_up_stack(0));
      const auto worker = std::move(Worker::start("deep").value());
      worker->loop().call([] { ::_exit(use_up_stack(0)); });
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
    expect_restored(on_worker ? "of a worker" : "of the main thread");
  }
}

TEST_F(TerminalTest, InTheBackgroundItIsRestoredToo) {
  int status = run([] {
    // The leader of a session keeps its group: the terminal is given to another one.
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return;
    const pid_t front = ::fork();
    if (front == 0) {
      ::close(ends[1]);
      char byte;
      (void)!::read(ends[0], &byte, 1);
      ::_exit(0);
    }
    ::setpgid(front, front);
    sigset_t stop, old;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    sigprocmask(SIG_BLOCK, &stop, &old);
    if (::tcsetpgrp(0, front) < 0) return;
    sigprocmask(SIG_SETMASK, &old, nullptr);
    std::raise(SIGUSR1);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1) << status;
  expect_restored("in the background");
}

TEST_F(TerminalTest, AForkOfItLeavesTheTerminalAlone) {
  const int status = run([] {
    const pid_t copy = ::fork();
    if (copy == 0) std::abort();
    int end;
    ::waitpid(copy, &end, 0);
    termios now;
    ::_exit(tcgetattr(0, &now) == 0 && (now.c_lflag & ICANON) == 0 ? 0 : 1);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(TerminalTest, AWritePastTheLimitOfFilesIsAnErrorAndNoEnd) {
  TempDir dir;
  const auto file =
      std::move(open_file(fmt::format("{}/small", dir.path), O_RDWR | O_CREAT).value());
  const int status = run([&] {
    const rlimit limit{.rlim_cur = 10, .rlim_max = 10};
    if (::setrlimit(RLIMIT_FSIZE, &limit) < 0) return;
    const auto wrote = write_all(file.get(), bytes_of("more than ten bytes"));
    ::_exit(!wrote && wrote.error().code() == EFBIG ? 0 : 1);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace vmm::chardev
