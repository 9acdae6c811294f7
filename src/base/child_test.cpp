#include "src/base/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <thread>

#include "src/base/forked_task.h"

namespace vmm {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Child::Clock::time_point in(milliseconds time) { return Child::Clock::now() + time; }

Child::Program shell(const std::string& script) {
  return {.path = "/bin/sh", .arguments = {"sh", "-c", script}};
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, 4096> chunk;
  for (ssize_t n = 0; (n = ::read(fd, chunk.data(), chunk.size())) > 0;) {
    text.append(chunk.data(), static_cast<std::size_t>(n));
  }
  return text;
}

std::size_t open_descriptors() {
  const auto entries = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

// While it lives, no descriptor can have this number or a higher one.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit lower{limit, before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &lower);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  DescriptorLimit(const DescriptorLimit&) = delete;

 private:
  rlimit before_{};
};

TEST(Child, FindsWhatItWasGivenAndNothingElse) {
  auto output = std::move(Pipe::create().value());
  const auto first = std::move(Pipe::create().value());
  const auto second = std::move(Pipe::create().value());
  ASSERT_TRUE(write_all(first.write_end.get(), std::as_bytes(std::span("one\n", 4))));
  ASSERT_TRUE(write_all(second.write_end.get(), std::as_bytes(std::span("two\n", 4))));
  // Not closed on exec, as of a library or an inherited one.
  const UniqueFd leaked(::fcntl(first.read_end.get(), F_DUPFD, 20));
  ASSERT_TRUE(leaked);
  auto program = shell("read a <&3; read b <&4; echo $a $b; ls /proc/self/fd; cat");
  program.passed = {first.read_end.get(), second.read_end.get()};
  program.output = program.error = output.write_end.get();
  auto child = Child::spawn(program);
  ASSERT_TRUE(child) << child.error().message();
  output.write_end.reset();
  // ls has its directory at the first number that is free.
  EXPECT_EQ(read_all(output.read_end.get()), "one two\n0\n1\n2\n3\n4\n5\n");
  EXPECT_TRUE(child->wait().is_success());
  EXPECT_TRUE(child->wait().is_success()) << "the second call says the same";
}

// Each is wanted at the number that the other one has.
TEST(Child, DescriptorsMayChangePlaces) {
  const auto a = std::move(Pipe::create().value());
  const auto b = std::move(Pipe::create().value());
  ASSERT_TRUE(write_all(a.write_end.get(), std::as_bytes(std::span("a\n", 2))));
  ASSERT_TRUE(write_all(b.write_end.get(), std::as_bytes(std::span("b\n", 2))));
  const int saved_3 = ::fcntl(3, F_DUPFD_CLOEXEC, 50), saved_4 = ::fcntl(4, F_DUPFD_CLOEXEC, 50);
  ASSERT_EQ(::dup2(b.read_end.get(), 103), 103);
  ASSERT_EQ(::dup2(a.read_end.get(), 104), 104);
  ASSERT_EQ(::dup2(103, 3), 3);
  ASSERT_EQ(::dup2(104, 4), 4);
  auto program = shell("read a <&3; read b <&4; test $a$b = ab");
  program.passed = {4, 3};
  auto child = Child::spawn(program);
  for (const auto& [number, saved] : {std::pair{3, saved_3}, std::pair{4, saved_4}}) {
    saved >= 0 ? (void)::dup2(saved, number) : (void)::close(number);
    if (saved >= 0) ::close(saved);
  }
  ::close(103);
  ::close(104);
  ASSERT_TRUE(child) << child.error().message();
  EXPECT_EQ(child->wait().text(), "ended with code 0");
}

TEST(Child, ErrorsNameTheProgramAndLeaveNothing) {
  const auto before = open_descriptors();
  EXPECT_EQ(Child::spawn({.path = "/no/such/program"}).error().message(),
            "cannot start '/no/such/program': No such file or directory");
  auto program = shell("true");
  program.passed = {-1};
  EXPECT_EQ(Child::spawn(program).error().message(),
            "cannot start '/bin/sh': cannot duplicate descriptor -1: Bad file descriptor");
  program.passed = {0};
  {
    const DescriptorLimit limit(3);  // it would be given number 3, and its copy 4
    EXPECT_EQ(Child::spawn(program).error().message(),
              "cannot start '/bin/sh': cannot duplicate descriptor 0: Invalid argument");
  }
  {
    const auto next = ::fcntl(0, F_DUPFD_CLOEXEC, 5);  // they are copied to 5 and up
    ::close(next);
    const DescriptorLimit limit(static_cast<rlim_t>(next) + 1);  // room for one
    program.passed = {0, 0};
    EXPECT_NE(Child::spawn(program).error().message().find("Too many open files"),
              std::string::npos);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Child, ThatCannotBeWatchedIsEnded) {
  const auto room = std::move(Pipe::create().value());  // for the numbers that spawning names
  const auto highest = ::fcntl(0, F_DUPFD_CLOEXEC, 0);
  ::close(highest);
  const DescriptorLimit limit(static_cast<rlim_t>(highest));  // no room for a pidfd
  const auto child = Child::spawn(shell("exec sleep 60"));
  ASSERT_FALSE(child);
  EXPECT_TRUE(child.error().message().starts_with("cannot watch process "))
      << child.error().message();
  const auto number = std::stoi(child.error().message().substr(21));
  EXPECT_EQ(::kill(number, 0), -1) << "it was reaped";
}

TEST(Child, SaysHowItEnded) {
  EXPECT_EQ(Child::spawn(shell("exit 3"))->wait().text(), "ended with code 3");
  EXPECT_EQ(Child::spawn(shell("kill -15 $$"))->wait().text(), "was ended by signal 15");
  EXPECT_EQ(Child::spawn(shell("exec sleep 60"))->end().text(), "was ended by signal 9");
}

TEST(Child, IsWaitedForInTime) {
  auto child = std::move(Child::spawn(shell("read x <&3")).value());
  (void)child.wait();  // nothing is at 3
  auto gate = std::move(Pipe::create().value());
  auto program = shell("read x <&3");
  program.passed = {gate.read_end.get()};
  child = std::move(Child::spawn(program).value());
  EXPECT_FALSE(child.wait_until(in(milliseconds(20))));
  EXPECT_FALSE(child.wait_until(in(milliseconds(-5))));
  gate.write_end.reset();
  EXPECT_TRUE(child.wait_until(in(seconds(10))));
  EXPECT_TRUE(child.wait_until(in(milliseconds(-5)))) << "it is known by now";
}

TEST(Child, ReadyEndedOrLate) {
  const auto readiness = [](const std::string& script, milliseconds patience) {
    auto ready = std::move(Pipe::create().value());
    auto program = shell(script);
    program.passed = {ready.write_end.get()};
    const auto child = Child::spawn(program);
    EXPECT_TRUE(child);
    ready.write_end.reset();
    return Child::wait_ready(ready.read_end.get(), in(patience));
  };
  EXPECT_EQ(readiness("echo 1 >&3; exec sleep 60", seconds(10)), Child::Readiness::ready);
  EXPECT_EQ(readiness("exit 1", seconds(10)), Child::Readiness::ended);
  EXPECT_EQ(readiness("kill -9 $$", seconds(10)), Child::Readiness::ended);
  EXPECT_EQ(readiness("exec 3>&-; exec sleep 60", seconds(10)), Child::Readiness::ended);
  EXPECT_EQ(readiness("exec sleep 60", milliseconds(20)), Child::Readiness::late);
}

TEST(Child, EndsWithItsOwnerUnlessItStays) {
  pid_t ended = 0, left = 0;
  {
    auto child = std::move(Child::spawn(shell("exec sleep 60")).value());
    ended = child.id();
    auto other = std::move(Child::spawn(shell("exec sleep 60")).value());
    left = other.leave();
  }
  EXPECT_EQ(::kill(ended, 0), -1);
  EXPECT_EQ(::getsid(left), left) << "in a session of its own";
  EXPECT_EQ(::kill(left, SIGKILL), 0);
  EXPECT_EQ(Child::spawn(shell("true"))->wait().code, 0);
}

// A handler or an ignored signal of this process is none of the program's, unless it is to stay.
TEST(Child, SignalsAreItsOwn) {
  struct sigaction ignore{}, before{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGHUP, &ignore, &before);
  sigset_t blocked, old;
  sigfillset(&blocked);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &old);
  auto program = shell("kill -1 $$; exit 5");
  const auto reset = Child::spawn(program)->wait();
  program.ignored = Child::Program::Ignored::kept;
  const auto kept = Child::spawn(program)->wait();
  ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
  ::sigaction(SIGHUP, &before, nullptr);
  EXPECT_EQ(reset.signal, SIGHUP);
  EXPECT_EQ(kept.code, 5);
}

TEST(Child, MayBeKilledByAnotherThread) {
  auto child = std::move(Child::spawn(shell("exec sleep 60")).value());
  std::thread other([&child] { child.kill(); });
  EXPECT_EQ(child.wait().signal, SIGKILL);
  other.join();
  child.kill();  // of no effect
}

Result<std::vector<std::byte>> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}
std::string text_of(const std::vector<std::byte>& bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST(ForkedTask, WorksOnTheMemoryOfThatMoment) {
  auto gate = std::move(Pipe::create().value());
  std::string text = "before";
  auto task = ForkedTask::start("copy", {gate.read_end.get()}, [&](std::span<const int> files) {
    char byte = 0;
    (void)!::read(files[0], &byte, 1);
    return bytes_of(text);
  });
  ASSERT_TRUE(task) << task.error().message();
  text = "after";
  ASSERT_TRUE(write_all(gate.write_end.get(), std::as_bytes(std::span("x", 1))));
  const auto result = task->result();
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(text_of(*result), "before");
}

TEST(ForkedTask, HasNoDescriptorButItsOwn) {
  const auto file = std::move(Pipe::create().value());
  auto task = ForkedTask::start(
      "copy", {file.read_end.get(), file.write_end.get()}, [](std::span<const int> files) {
        return bytes_of(fmt::format("{} {} {} {}", files[0], files[1], ::fcntl(6, F_GETFD),
                                    open_descriptors()));
      });
  ASSERT_TRUE(task);
  // The standard ones, the pipe, the two files, and what looks.
  EXPECT_EQ(text_of(task->result().value()), "4 5 -1 7");
}

TEST(ForkedTask, LongResultsArrive) {
  const std::string text(3u << 20, 'x');
  auto task = ForkedTask::start("copy", {}, [&](std::span<const int>) { return bytes_of(text); });
  ASSERT_TRUE(task);
  EXPECT_EQ(task->result().value().size(), text.size());
}

TEST(ForkedTask, ErrorsAreTheTasks) {
  using Bytes = Result<std::vector<std::byte>>;
  const auto why = [](const ForkedTask::Task& work) {
    auto task = ForkedTask::start("copy", {}, work);
    EXPECT_TRUE(task);
    const auto result = task->result();
    return result ? "" : result.error().message();
  };
  EXPECT_EQ(why([](auto) -> Bytes { return fail("the disk is full"); }), "the disk is full");
  EXPECT_EQ(why([](auto) -> Bytes { throw std::bad_alloc(); }),
            "the host has no memory left for this machine");
  EXPECT_EQ(why([](auto) -> Bytes { ::_exit(7); }), "the process 'copy' ended with code 7");
  EXPECT_EQ(why([](auto) -> Bytes {
              ::raise(SIGKILL);
              return fail("not reached");
            }),
            "the process 'copy' was ended by signal 9");
}

TEST(ForkedTask, ThatCannotStartLeavesNothing) {
  const auto before = open_descriptors();
  const auto task = ForkedTask::start("copy", {-1}, [](auto) { return bytes_of(""); });
  ASSERT_FALSE(task);
  EXPECT_EQ(task.error().message(), "cannot duplicate descriptor -1: Bad file descriptor");
  EXPECT_EQ(open_descriptors(), before);
}

TEST(ForkedTask, IsKilledByAnotherThread) {
  auto task = ForkedTask::start("copy", {}, [](auto) -> Result<std::vector<std::byte>> {
    for (;;) ::pause();
  });
  ASSERT_TRUE(task);
  std::thread other([&task] { task->kill(); });
  EXPECT_EQ(task->result().error().message(), "the process 'copy' was ended by signal 9");
  other.join();
}

}  // namespace
}  // namespace vmm
