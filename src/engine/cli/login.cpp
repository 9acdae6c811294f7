// login and logout: who this person is to a registry.
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include <iostream>

#include "src/engine/cli/commands.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine::cli {
namespace {

constexpr std::string_view kHub = "docker.io";

// "https://ghcr.io/v1/" and "ghcr.io" are one registry.
Result<std::string> registry_of(const Words& words) {
  if (words.names().empty()) return std::string(kHub);
  const auto& given = words.names()[0];
  std::string_view host = given;
  if (const auto scheme = host.find("://"); scheme != std::string_view::npos) {
    host.remove_prefix(scheme + 3);
  }
  host = host.substr(0, host.find('/'));
  if (host == "index.docker.io" || host == "registry-1.docker.io") host = kHub;
  const auto reference = parse_reference(fmt::format("{}/name", host));
  if (!reference || reference->registry != host) {
    return fail("invalid registry '{}': expected a host name such as ghcr.io or localhost:5000",
                given);
  }
  return std::string(host);
}

// Hides what is typed.
class Silence {
 public:
  Silence() : is_terminal_(::tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (!is_terminal_) return;
    termios silent = before_;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
  }
  Silence(const Silence&) = delete;
  ~Silence() {
    if (is_terminal_) ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before_);
  }

 private:
  termios before_{};
  bool is_terminal_;
};

std::string ask(std::string_view prompt) {
  print(prompt);
  std::fflush(stdout);
  std::string line;
  std::getline(std::cin, line);
  return line;
}

std::string ask_silently(std::string_view prompt) {
  std::string line;
  {
    const Silence silence;
    line = ask(prompt);
  }
  print("\n");
  return line;
}

Result<std::string> password_of_stdin() {
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
  if (text.empty()) return fail("password is empty");
  return text;
}

Result<Credentials> ask_for_credentials(const Words& words) {
  Credentials credentials{words.text("username"), words.text("password")};
  if (words.has("password-stdin")) {
    if (words.has("password")) {
      return fail("conflicting options: --password and --password-stdin are mutually exclusive");
    }
    if (credentials.user.empty()) return fail("must provide --username with --password-stdin");
    credentials.password = TRY(password_of_stdin());
    return credentials;
  }
  if (words.has("password")) {
    fmt::print(stderr,
               "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
  }
  const bool asks = credentials.user.empty() || credentials.password.empty();
  if (asks && ::isatty(STDIN_FILENO) == 0) {
    return fail("cannot perform an interactive login from a non TTY device");
  }
  if (credentials.user.empty()) credentials.user = ask("Username: ");
  if (credentials.user.empty()) return fail("username is required");
  if (credentials.password.empty()) credentials.password = ask_silently("Password: ");
  if (credentials.password.empty()) return fail("password is required");
  return credentials;
}

}  // namespace

Result<int> login(const Words& words) {
  const auto registry = TRY(registry_of(words));
  const Reference reference{.registry = registry, .path = {}, .tag = {}, .digest = {}};
  const bool says_nothing =
      !words.has("username") && !words.has("password") && !words.has("password-stdin");
  if (const auto known = TRY(find_credentials(registry)); says_nothing && known) {
    print(fmt::format("Authenticating with existing credentials... [Username: {}]\n", known->user));
    if (Registry(reference, known).log_in()) {
      print("Login Succeeded\n");
      return 0;
    }
    print("They are not valid any more.\n");
  }
  const auto credentials = TRY(ask_for_credentials(words));
  TRY(Registry(reference, credentials).log_in());
  if (TRY(keep_credentials(registry, credentials)) == Kept::in_file) {
    fmt::print(stderr,
               "\nWARNING! Your credentials are stored unencrypted in '{}'.\n"
               "Configure a credential helper to remove this warning.\n\n",
               TRY(credentials_file()));
  }
  print("Login Succeeded\n");
  return 0;
}

Result<int> logout(const Words& words) {
  const auto registry = TRY(registry_of(words));
  if (TRY(forget_credentials(registry))) {
    print(fmt::format("Removing login credentials for {}\n", registry));
  } else {
    print(fmt::format("Not logged in to {}\n", registry));
  }
  return 0;
}

}  // namespace vmm::engine::cli
