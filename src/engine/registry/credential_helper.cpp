#include "src/engine/registry/credential_helper.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "src/base/json.h"
#include "src/base/unique_fd.h"

extern char** environ;

namespace vmm::engine {
namespace {

constexpr std::size_t kMaxAnswer = 1u << 20;

struct Pipe {
  UniqueFd read, write;
};
Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno("cannot create a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

class FileActions {
 public:
  FileActions() { ::posix_spawn_file_actions_init(&actions_); }
  FileActions(const FileActions&) = delete;
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  void replace(int fd, int by) { ::posix_spawn_file_actions_adddup2(&actions_, by, fd); }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

std::string trim(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0)
    text.pop_back();
  return text;
}

// Until its end; more than the bound is read and left out.
std::string read_answer(int fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t n; (n = ::read(fd, buffer.data(), buffer.size())) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    const auto room = kMaxAnswer - text.size();
    text.append(buffer.data(), std::min(room, static_cast<std::size_t>(n)));
  }
  return text;
}

}  // namespace

Result<CredentialHelper> CredentialHelper::named(std::string_view name) {
  const bool is_valid = !name.empty() && name.find('/') == std::string_view::npos;
  if (!is_valid) return fail("invalid credential helper '{}': expected a program's name", name);
  return CredentialHelper(fmt::format("docker-credential-{}", name));
}

// The request is smaller than a pipe holds, so that it is written before the answer is read.
Result<CredentialHelper::Answer> CredentialHelper::run(const char* action,
                                                       std::string_view input) const {
  auto in = TRY(make_pipe());
  auto out = TRY(make_pipe());
  FileActions actions;
  actions.replace(STDIN_FILENO, in.read.get());
  actions.replace(STDOUT_FILENO, out.write.get());
  std::string program = program_, word = action;
  std::array<char*, 3> arguments = {program.data(), word.data(), nullptr};
  pid_t child = 0;
  const int code =
      ::posix_spawnp(&child, program.c_str(), actions.get(), nullptr, arguments.data(), environ);
  if (code != 0) return fail_errno_text(code, fmt::format("cannot run '{}'", program_));
  in.read.reset();
  out.write.reset();
  // A helper that does not read says so by its end.
  (void)write_all(in.write.get(), std::as_bytes(std::span(input)));
  in.write.reset();
  auto text = read_answer(out.read.get());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return Answer{WIFEXITED(status) && WEXITSTATUS(status) == 0, trim(std::move(text))};
}

Result<std::optional<Credentials>> CredentialHelper::get(std::string_view server) const {
  const auto answer = TRY(run("get", server));
  if (!answer.ok) {
    if (answer.text.find("credentials not found") != std::string::npos) return std::nullopt;
    return fail("{}: {}", program_, answer.text.empty() ? "it failed" : answer.text);
  }
  const auto root = parse_json(answer.text);
  const auto text = [&root](const char* name) -> std::string {
    const auto found = root->find(name);
    return found != root->end() && found->is_string() ? found->get<std::string>() : "";
  };
  if (!root || !root->is_object() || text("Secret").empty()) {
    return fail("{}: its answer is not valid: expected an object with Username and Secret",
                program_);
  }
  return Credentials{text("Username"), text("Secret")};
}

Result<void> CredentialHelper::store(std::string_view server,
                                     const Credentials& credentials) const {
  const nlohmann::json request = {
      {"ServerURL", server}, {"Username", credentials.user}, {"Secret", credentials.password}};
  const auto answer = TRY(run("store", request.dump()));
  if (!answer.ok) return fail("{}: {}", program_, answer.text);
  return {};
}

Result<void> CredentialHelper::erase(std::string_view server) const {
  const auto answer = TRY(run("erase", server));
  if (!answer.ok) return fail("{}: {}", program_, answer.text);
  return {};
}

}  // namespace vmm::engine
