#include "src/cli/commands/fork_copy.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "src/base/unique_fd.h"

namespace vmm::cli {
namespace {

constexpr int kReadyFd = 3;  // the first that is passed
// How long a copy that has failed may take to end.
constexpr auto kEndPatience = std::chrono::seconds(10);
constexpr auto kLookEvery = std::chrono::milliseconds(100);  // whether the work was cancelled

}  // namespace

Result<ForkCopy> ForkCopy::start(const std::string& stem, const std::vector<std::string>& words,
                                 const std::vector<int>& held, const std::string& program) {
  auto ready = TRY(Pipe::create());
  const auto log = TRY(open_file(stem + ".log", O_WRONLY | O_CREAT | O_TRUNC));
  std::vector<std::string> arguments = {"vmm"};
  arguments.insert(arguments.end(), words.begin(), words.end());
  for (const auto& word : {std::string("--control"), stem + ".control", std::string("--serial"),
                           "file:" + stem + ".console", std::string("--name"),
                           std::filesystem::path(stem).filename().string(),
                           std::string("--ready-fd"), std::to_string(kReadyFd)}) {
    arguments.push_back(word);
  }
  std::vector<int> passed = {ready.write_end.get()};
  passed.insert(passed.end(), held.begin(), held.end());
  auto process = Child::spawn({.path = program,
                               .arguments = std::move(arguments),
                               .passed = std::move(passed),
                               .output = log.get(),
                               .error = log.get(),
                               .ignored = Child::Program::Ignored::kept});
  if (!process) return fail("cannot start a copy of the machine: {}", process.error().message());
  return ForkCopy(stem, std::move(*process), std::move(ready.read_end));
}

Result<void> ForkCopy::wait_ready(Progress& work, std::chrono::milliseconds patience) {
  const auto deadline = Child::Clock::now() + patience;
  auto readiness = Child::Readiness::late;
  while (readiness == Child::Readiness::late && Child::Clock::now() < deadline) {
    TRY(work.advance(0));
    readiness =
        Child::wait_ready(ready_.get(), std::min(Child::Clock::now() + kLookEvery, deadline));
  }
  switch (readiness) {
    case Child::Readiness::ready:
      return {};
    case Child::Readiness::late:
      (void)process_.end();
      return fail("a copy does not start: it is not ready after {} s",
                  std::chrono::ceil<std::chrono::seconds>(patience).count());
    case Child::Readiness::ended:
      break;
  }
  // It says why when its pipe is closed already.
  const auto end = process_.wait_until(Child::Clock::now() + kEndPatience);
  return fail("a copy does not start: {}", last_words(end ? *end : process_.end()));
}

std::string ForkCopy::last_words(const ChildEnd& end) const {
  const auto log = read_text_file(stem_ + ".log");
  std::string text = log ? *log : "";
  text.resize(text.find_last_not_of('\n') + 1);
  text.erase(0, text.rfind('\n') + 1);  // the last line is the error
  constexpr std::string_view kPrefix = "vmm: ";
  if (text.starts_with(kPrefix)) text.erase(0, kPrefix.size());
  return text.empty() ? "it " + end.text() : text;
}

}  // namespace vmm::cli
