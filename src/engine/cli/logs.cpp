// logs: what a container wrote.
#include <poll.h>
#include <unistd.h>

#include <optional>

#include "src/base/text.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/container_filter.h"
#include "src/engine/cli/supervisor_client.h"
#include "src/engine/runtime/log_reader.h"

namespace vmm::engine::cli {
namespace {

struct Options {
  LogSelection selection;
  bool follow = false, timestamps = false, details = false;
};

Result<Options> parse(const Words& words) {
  Options options;
  options.follow = words.has("follow");
  options.timestamps = words.has("timestamps");
  options.details = words.has("details");
  if (words.has("since")) options.selection.since = TRY(parse_moment(words.text("since"), "since"));
  if (words.has("until")) options.selection.until = TRY(parse_moment(words.text("until"), "until"));
  if (const auto tail = words.text("tail"); !tail.empty() && tail != "all") {
    // As Docker has it: what is no number is all.
    if (const auto number = parse_number(tail, 0, 1u << 30, "tail")) {
      options.selection.tail = *number;
    }
  }
  return options;
}

std::string label_text(const Container& container) {
  std::string text;
  for (const auto& label : container.spec.labels) text += (text.empty() ? "" : ",") + label;
  return text;
}

// Both streams as they were; false: nobody reads.
bool show(const LogLine& line, const Options& options, const Container& container) {
  std::string text;
  if (options.timestamps) text += line.time_text + " ";
  if (options.details) text += label_text(container) + " ";
  text += line.text;
  const int fd = line.stream == wire::Stream::output ? STDOUT_FILENO : STDERR_FILENO;
  return write_all(fd, std::as_bytes(std::span(text))).has_value();
}

// Until the container has ended.
Result<void> follow(LogReader& reader, const std::string& directory, const auto& show_line) {
  const auto supervisor = connect_to_supervisor(directory);
  bool ended = !supervisor;
  for (;;) {
    while (auto line = TRY(reader.next())) {
      if (!show_line(*line)) return {};
    }
    if (ended) return {};
    // Its closing is the end: what was written before is read once more.
    std::array<pollfd, 2> ready = {pollfd{reader.changes(), POLLIN, 0},
                                   pollfd{supervisor->get(), POLLIN, 0}};
    if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) {
      return fail_errno("cannot wait");
    }
    if (ready[1].revents != 0) {
      std::array<char, 4096> bytes;
      ended = ::read(supervisor->get(), bytes.data(), bytes.size()) <= 0;
    }
    reader.take_changes();
  }
}

}  // namespace

Result<int> logs(const Words& words) {
  const auto options = TRY(parse(words));
  Container container;
  std::string directory;
  {
    auto store = TRY(open_store());
    Containers containers(store);
    container = TRY(containers.find(words.names()[0]));
    directory = containers.directory(container.id);
  }
  auto reader = TRY(LogReader::open(directory, options.selection));
  const auto show_line = [&](const LogLine& line) { return show(line, options, container); };
  if (options.follow) {
    TRY(follow(reader, directory, show_line));
    return 0;
  }
  while (auto line = TRY(reader.next())) {
    if (!show_line(*line)) break;
  }
  return 0;
}

}  // namespace vmm::engine::cli
