// Docker's helper programs, which keep credentials in a keychain: docker-credential-NAME get, store
// or erase, with the request on standard input and JSON on standard output
// (github.com/docker/docker-credential-helpers).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "src/engine/registry/credentials.h"

namespace vmm::engine {

class CredentialHelper {
 public:
  // Error: not the name of a program.
  static Result<CredentialHelper> named(std::string_view name);

  // `server`: as config.json names the registry.
  Result<std::optional<Credentials>> get(std::string_view server) const;
  Result<void> store(std::string_view server, const Credentials& credentials) const;
  Result<void> erase(std::string_view server) const;

 private:
  struct Answer {
    bool ok = false;
    std::string text;  // of standard output
  };
  explicit CredentialHelper(std::string program) : program_(std::move(program)) {}
  Result<Answer> run(const char* action, std::string_view input) const;

  std::string program_;
};

}  // namespace vmm::engine
