#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "src/base/event_loop.h"
#include "src/base/log.h"
#include "src/base/own_code.h"
#include "src/base/read_large.h"
#include "src/base/sparse_file.h"
#include "src/base/text.h"
#include "src/base/thread.h"
#include "src/base/unique_fd.h"
#include "src/base/worker.h"

namespace vmm {
namespace {

TEST(ParseSize, TakesUnits) {
  EXPECT_EQ(*parse_size("512"), 512u);
  EXPECT_EQ(*parse_size("64K"), 65536u);
  EXPECT_EQ(*parse_size("2G"), 2ull << 30);
  EXPECT_EQ(*parse_size("2GiB"), 2ull << 30);
  EXPECT_EQ(*parse_size("3mb"), 0u + (3u << 20)) << "lower case";
}

TEST(ParseSize, RefusesWithTheValue) {
  for (const char* bad : {"", "2Q", "G", "-1", "1.5G", "2GG", "99999999999T", "0x10", " 1"}) {
    const auto result = parse_size(bad);
    ASSERT_FALSE(result) << bad;
    EXPECT_NE(result.error().message().find(fmt::format("'{}'", bad)), std::string::npos);
  }
}

TEST(FormatSize, IsExact) {
  EXPECT_EQ(format_size(2ull << 30), "2G");
  EXPECT_EQ(format_size(1536), "1536");
  EXPECT_EQ(format_size(3u << 19), "1536K");
  EXPECT_EQ(format_size(0), "0");
}

TEST(Printable, HasNothingThatATerminalObeys) {
  EXPECT_EQ(printable("caf\u00e9 \u2603\n"), "caf\u00e9 \u2603\n");
  EXPECT_EQ(printable("a\x1b]0;x\x07"
                      "b\r\t\x7f"),
            "a?]0;x?b???");
  EXPECT_EQ(printable(std::string_view("\0x", 2)), "?x");
  EXPECT_EQ(printable("\u0080\u009b2J\u009f\u00a0"), "??2J?\u00a0");
  EXPECT_EQ(printable("\xc2\xc2\x9b"), "\xc2?");
  EXPECT_EQ(printable("caf\xe9\xc2"), "caf\xe9\xc2") << "not UTF-8, as it is";
  EXPECT_EQ(printable(""), "");
}

TEST(NearestName, FindsTypos) {
  constexpr std::array<std::string_view, 3> kNames = {"serial", "readonly", "rate-limit"};
  EXPECT_EQ(nearest_name("seral", kNames), "serial");
  EXPECT_EQ(nearest_name("zzzzzz", kNames), "");
}

TEST(ParseNumber, ChecksBounds) {
  EXPECT_EQ(*parse_number("8", 1, 8, "cpus"), 8u);
  for (const char* bad : {"0", "9", "", "1x", "-1"}) EXPECT_FALSE(parse_number(bad, 1, 8, "cpus"));
}

TEST(EventLoop, RunsTasksAndTimersInOrder) {
  auto loop = std::move(*EventLoop::create());
  std::string order;
  loop->post([&] { order += 'a'; });
  loop->add_timer(EventLoop::Clock::now() + std::chrono::milliseconds(5), [&] {
    order += 'c';
    loop->stop();
  });
  const auto cancelled = loop->add_timer(EventLoop::Clock::now(), [&] { order += 'x'; });
  loop->cancel_timer(cancelled);
  loop->post([&] { order += 'b'; });
  loop->run();
  EXPECT_EQ(order, "abc");
}

// A device waits for microseconds: fifty timers in a row would take 50 ms if each was rounded up.
TEST(EventLoop, TimersAreNotRoundedUp) {
  using std::chrono::milliseconds;
  auto best = EventLoop::Clock::duration::max();
  for (int attempt = 0; attempt < 10 && best > milliseconds(40); ++attempt) {
    auto loop = std::move(EventLoop::create().value());
    int left = 50;
    const auto begin = EventLoop::Clock::now();
    std::function<void()> next = [&] {
      if (left-- == 0) return loop->stop();
      loop->add_timer(EventLoop::Clock::now() + std::chrono::microseconds(100), next);
    };
    next();
    loop->run();
    best = std::min(best, EventLoop::Clock::now() - begin);
  }
  EXPECT_GE(best, milliseconds(5));
  EXPECT_LE(best, milliseconds(40));
}

TEST(EventLoop, CallbackMayForgetItself) {
  auto loop = std::move(*EventLoop::create());
  auto event = std::move(*EventFd::create());
  int calls = 0;
  ASSERT_TRUE(loop->watch(event.fd(), EPOLLIN, [&](std::uint32_t) {
    ++calls;
    loop->forget(event.fd());
    loop->stop();
  }));
  event.signal();
  loop->run();
  EXPECT_EQ(calls, 1);
}

TEST(Worker, CallRunsOnItsThread) {
  auto worker = std::move(*Worker::start("test"));
  std::thread::id id;
  worker->loop().call([&] { id = std::this_thread::get_id(); });
  EXPECT_NE(id, std::this_thread::get_id());
}

TEST(Worker, ACallThrowsWhereItWasMadeAndTheThreadGoesOn) {
  const auto worker = std::move(Worker::start("test").value());
  EXPECT_THROW(worker->loop().call([] { throw std::runtime_error("asked for"); }),
               std::runtime_error);
  bool called = false;
  worker->loop().call([&] { called = true; });
  EXPECT_TRUE(called);
}

struct EndsOtherwise {
  ~EndsOtherwise() { ::_exit(99); }
};

// What is static stays whole: other threads use it until the process is gone.
TEST(WorkerDeathTest, WhatATaskThrowsEndsTheProcessWithASentence) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto throw_on_worker = [] {
    static const EndsOtherwise used_by_others;
    const auto worker = std::move(Worker::start("blk0").value());
    worker->loop().post([] { throw std::bad_alloc(); });
    ::pause();
  };
  EXPECT_EXIT(throw_on_worker(), ::testing::ExitedWithCode(kInternalErrorCode),
              "^vmm: thread 'blk0': the host has no memory left for this machine\n$");
}

TEST(Background, HasWhatItsTaskReturnsOrThrows) {
  const auto get = [](auto task) { return Background<int>::start("test", task).value().get(); };
  EXPECT_EQ(get([]() -> Result<int> { return 7; }).value(), 7);
  EXPECT_EQ(get([]() -> Result<int> { return fail("no"); }).error().message(), "no");
  EXPECT_EQ(get([]() -> Result<int> { throw std::runtime_error("json"); }).error().message(),
            "unexpected error: json");
  std::atomic<bool> ended = false;
  {
    auto left = Background<void>::start("test", [&]() -> Result<void> {
      ended = true;
      return {};
    });
    ASSERT_TRUE(left);
  }
  EXPECT_TRUE(ended) << "its end waits for the thread";
}

// vCPUs of a machine that is made again are started by a thread that has all signals blocked.
TEST(StartThread, KeepsASignalThatItsStarterBlocks) {
  sigset_t blocked;
  sigemptyset(&blocked);
  auto outer = start_thread("outer", [&] {
    auto inner =
        start_thread("inner", [&] { pthread_sigmask(SIG_BLOCK, nullptr, &blocked); }, SIGUSR2);
    ASSERT_TRUE(inner);
    inner->join();
  });
  ASSERT_TRUE(outer);
  outer->join();
  EXPECT_TRUE(sigismember(&blocked, SIGUSR1));
  EXPECT_FALSE(sigismember(&blocked, SIGUSR2));
}

TEST(StartThread, HasAllSignalsBlockedButItsFaultsAndThoseKept) {
  sigset_t blocked{};
  auto thread =
      start_thread("test", [&] { pthread_sigmask(SIG_BLOCK, nullptr, &blocked); }, SIGUSR2);
  ASSERT_TRUE(thread) << thread.error().message();
  thread->join();
  for (const int signal : {SIGTERM, SIGUSR1}) EXPECT_EQ(sigismember(&blocked, signal), 1);
  for (const int signal : {SIGSEGV, SIGUSR2}) EXPECT_EQ(sigismember(&blocked, signal), 0);
}

TEST(Caught, WhatALibraryThrowsIsAnError) {
  EXPECT_TRUE(caught([] {}));
  EXPECT_EQ(caught([]() -> Result<int> { return 3; }).value(), 3);
  const auto out_of_memory = caught([] { throw std::bad_alloc(); });
  ASSERT_FALSE(out_of_memory);
  EXPECT_NE(out_of_memory.error().message().find("no memory"), std::string::npos);
  const auto other = caught([] { throw std::runtime_error("json"); });
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().message(), "unexpected error: json");
}

TEST(UnnamedFile, IsInTheDirectoryOrElseWhereTemporaryFilesGo) {
  const std::string there = std::filesystem::temp_directory_path();
  for (const auto& directory : {there, std::string("/nowhere/at/all")}) {
    const auto file = open_unnamed_file(directory);
    ASSERT_TRUE(file) << file.error().message();
    EXPECT_TRUE(write_all_at(file->get(), std::as_bytes(std::span("text")), 0));
    struct stat status{};
    ASSERT_EQ(::fstat(file->get(), &status), 0);
    EXPECT_EQ(status.st_nlink, 0u);
    EXPECT_EQ(status.st_size, 5);
  }
}

TEST(NextData, FindsWhatIsNoHole) {
  const auto file = open_unnamed_file(std::filesystem::temp_directory_path()).value();
  constexpr std::uint64_t kSize = 4u << 20, kPart = 1u << 20;
  ASSERT_EQ(::ftruncate(file.get(), kSize), 0);
  const auto next = [&](std::uint64_t offset, std::uint64_t end) {
    const auto data = next_data(file.get(), offset, end).value();
    return std::pair(data.offset, data.length);
  };
  using Pair = std::pair<std::uint64_t, std::uint64_t>;
  if (next(0, kSize) == Pair(0, kSize)) GTEST_SKIP() << "a file system without holes";
  EXPECT_EQ(next(0, kSize), Pair(kSize, 0));
  const std::vector<std::byte> bytes(kPart, std::byte{7});
  for (const std::uint64_t at : {kPart, 3 * kPart})
    ASSERT_TRUE(write_all_at(file.get(), bytes, at));
  EXPECT_EQ(next(0, kSize), Pair(kPart, kPart));
  EXPECT_EQ(next(kPart + 5, kSize), Pair(kPart + 5, kPart - 5)) << "from the middle on";
  EXPECT_EQ(next(2 * kPart, kSize), Pair(3 * kPart, kPart)) << "up to the end";
  EXPECT_EQ(next(0, kPart / 2), Pair(kPart / 2, 0)) << "what lies behind does not count";
  EXPECT_EQ(next(0, kPart + 10), Pair(kPart, 10));
  EXPECT_EQ(next(kSize, kSize), Pair(kSize, 0));
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  EXPECT_FALSE(next_data(reader.get(), 0, kSize));
}

TEST(ReadTextFile, TakesRegularFilesAloneAndNeverWaits) {
  char root[] = "/tmp/vmm-text-XXXXXX";
  ASSERT_NE(::mkdtemp(root), nullptr);
  const std::string fifo = std::string(root) + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const auto& path : {fifo, std::string(root), std::string("/dev/zero")}) {
    const auto text = read_text_file(path);
    ASSERT_FALSE(text) << path;
    EXPECT_EQ(text.error().message(), "'" + path + "' is not a regular file");
  }
  EXPECT_TRUE(read_text_file("/proc/self/stat"));
  const std::string six = std::string(root) + "/six";
  std::ofstream(six) << "sixsix";
  EXPECT_EQ(read_text_file(six, 6).value(), "sixsix");
  EXPECT_FALSE(read_text_file(six, 5)) << "larger than the limit";
  std::filesystem::remove_all(root);
}

TEST(Log, AFileThatCannotBeWrittenIsAnErrorAndNoFolderIsMade) {
  char root[] = "/tmp/vmm-log-XXXXXX";
  ASSERT_NE(::mkdtemp(root), nullptr);
  const std::string folder = root;
  const auto refused = log::configure(log::Level::warn, folder + "/such/x");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find(folder + "/such/x"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder + "/such"));
  ASSERT_EQ(::mkfifo((folder + "/fifo").c_str(), 0600), 0);
  EXPECT_FALSE(log::configure(log::Level::warn, folder + "/fifo")) << "nobody reads it";
  ASSERT_TRUE(log::configure(log::Level::warn, folder + "/log"));
  log::warn("line {}", 1);
  const auto text = read_text_file(folder + "/log");
  EXPECT_NE(text->find(" vmm warning: line 1\n"), std::string::npos) << *text;
  std::filesystem::remove_all(folder);
}

TEST(RateLimit, LetsTheBurstThroughThenStops) {
  log::RateLimit limit(3);
  int allowed = 0;
  for (int i = 0; i < 1000; ++i) allowed += limit.allow() ? 1 : 0;
  EXPECT_GE(allowed, 3);
  EXPECT_LE(allowed, 6);  // one more a second
}

TEST(ReadLarge, ReadsWhatOneReadDoes) {
  const UniqueFd file = open_unnamed_file("/tmp").value();
  std::string content((9u << 20) + 4321, '\0');
  for (std::size_t i = 0; i < content.size(); i += 64) std::memcpy(&content[i], &i, 4);
  content.resize(content.size() - 7);
  ASSERT_TRUE(write_all(file.get(), std::as_bytes(std::span(content))));
  for (const std::size_t offset : {std::size_t{0}, std::size_t{5}, std::size_t{8u << 20}}) {
    std::string read(content.size() - offset, '?');
    ASSERT_TRUE(read_large_at(file.get(), std::as_writable_bytes(std::span(read)), offset));
    EXPECT_TRUE(read == content.substr(offset)) << offset;
  }
  std::string longer(content.size() + 1, '?');
  EXPECT_FALSE(read_large_at(file.get(), std::as_writable_bytes(std::span(longer)), 0));
}

// The mapping with the program's code, and how much of it is mapped in.
struct CodeMapping {
  std::uintptr_t begin = 0, end = 0;
  std::uint64_t resident = 0;  // KiB
};
CodeMapping find_code(const std::string& smaps) {
  const auto inside = reinterpret_cast<std::uintptr_t>(&find_code);
  CodeMapping code;
  std::istringstream lines(smaps);
  for (std::string line; std::getline(lines, line);) {
    std::uintptr_t begin = 0, end = 0;
    unsigned long resident = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2 && begin <= inside &&
        inside < end) {
      code = {begin, end, 0};
    }
    if (code.end != 0 && std::sscanf(line.c_str(), "Rss: %lu kB", &resident) == 1) {
      code.resident = resident;
      return code;
    }
  }
  return code;
}

TEST(OwnCode, ComesBackAsItRuns) {
  const auto code = find_code(*read_text_file("/proc/self/smaps"));
  ASSERT_NE(code.end, 0u);
  for (auto at = code.begin; at < code.end; at += 4096) {
    (void)*reinterpret_cast<const volatile char*>(at);
  }
  const auto before = *read_text_file("/proc/self/smaps");
  unmap_own_code();
  const auto after = *read_text_file("/proc/self/smaps");  // by little code, which is mapped again
  EXPECT_EQ(find_code(before).resident, (code.end - code.begin) >> 10);
  EXPECT_LT(find_code(after).resident, (code.end - code.begin) >> 11);
}

}  // namespace
}  // namespace vmm
