#include "src/engine/registry/credentials.h"

#include <nlohmann/json.hpp>
#include <openssl/evp.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <vector>

#include "src/base/json.h"
#include "src/base/new_file.h"
#include "src/base/unique_fd.h"
#include "src/engine/registry/credential_helper.h"

namespace vmm::engine {
namespace {

using nlohmann::ordered_json;

std::vector<std::string> places() {
  std::vector<std::string> paths;
  const char* file = std::getenv("REGISTRY_AUTH_FILE");
  if (file != nullptr && *file != 0) paths.emplace_back(file);
  // A relative one is not valid (XDG Base Directory Specification).
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime == '/') {
    paths.push_back(fmt::format("{}/containers/auth.json", runtime));
  }
  if (auto own = credentials_file()) paths.push_back(std::move(*own));
  return paths;
}

// The name under which Docker writes it.
std::string key_of(std::string_view registry) {
  return registry == "docker.io" ? "https://index.docker.io/v1/" : std::string(registry);
}

// The names under which others have written it.
std::vector<std::string> keys_of(std::string_view registry) {
  if (registry == "docker.io") return {key_of(registry), "docker.io", "index.docker.io"};
  return {key_of(registry), fmt::format("https://{}", registry),
          fmt::format("http://{}", registry)};
}

// An empty object where there is no such file.
Result<ordered_json> read_config(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0) return ordered_json::object();
  auto root = parse_ordered_json(TRY(read_text_file(path)));
  if (!root) return fail("'{}' is not valid JSON: {}", path, root.error().message());
  if (!root->is_object()) return fail("'{}' is not valid: expected an object", path);
  return std::move(*root);
}

// A member that is an object, or an empty one.
ordered_json object_in(const ordered_json& root, const char* name) {
  const auto found = root.find(name);
  return found != root.end() && found->is_object() ? *found : ordered_json::object();
}

std::string text_in(const ordered_json& object, std::string_view name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// The helper that the file names for the registry.
Result<std::optional<CredentialHelper>> helper_in(const ordered_json& root,
                                                  std::string_view registry) {
  const auto helpers = object_in(root, "credHelpers");
  for (const auto& key : keys_of(registry)) {
    if (const auto name = text_in(helpers, key); !name.empty()) {
      return TRY(CredentialHelper::named(name));
    }
  }
  if (const auto name = text_in(root, "credsStore"); !name.empty()) {
    return TRY(CredentialHelper::named(name));
  }
  return std::nullopt;
}

Result<std::optional<Credentials>> credentials_in(const std::string& path,
                                                  std::string_view registry) {
  const auto root = TRY(read_config(path));
  if (const auto helper = TRY(helper_in(root, registry))) {
    if (auto found = TRY(helper->get(key_of(registry)))) return found;
  }
  const auto auths = object_in(root, "auths");
  for (const auto& key : keys_of(registry)) {
    const auto encoded = text_in(object_in(auths, key.c_str()), "auth");
    if (encoded.empty()) continue;
    const auto text = decode_base64(encoded);
    const auto colon = text ? text->find(':') : std::string::npos;
    if (colon == std::string::npos) return fail("'{}' has damaged credentials of {}", path, key);
    return Credentials{text->substr(0, colon), text->substr(colon + 1)};
  }
  return std::nullopt;
}

// Only one process at a time changes the file; it is whole at any instant.
class ConfigFile {
 public:
  static Result<ConfigFile> open(std::string path) {
    std::error_code error;
    // Where a link leads, a link stays.
    if (auto real = std::filesystem::canonical(path, error); !error) path = real.string();
    const auto directory = std::filesystem::path(path).parent_path().string();
    if (::mkdir(directory.c_str(), 0700) < 0 && errno != EEXIST) {
      return fail_errno("cannot create '{}'", directory);
    }
    auto lock = TRY(open_file(directory, O_RDONLY | O_DIRECTORY));
    if (::flock(lock.get(), LOCK_EX) < 0) return fail_errno("cannot lock '{}'", directory);
    auto root = TRY(read_config(path));
    return ConfigFile(std::move(path), std::move(lock), std::move(root));
  }

  ordered_json& root() { return root_; }
  Result<void> write() const {
    auto partial = path_ + ".XXXXXX";
    const UniqueFd fd(::mkostemp(partial.data(), O_CLOEXEC));  // for its owner alone
    if (!fd) return fail_errno("cannot create a file beside '{}'", path_);
    const auto text = root_.dump(1, '\t') + "\n";
    auto done = write_all(fd.get(), std::as_bytes(std::span(text)));
    if (done && ::fsync(fd.get()) < 0) done = fail_errno("cannot write '{}'", partial);
    if (done && ::rename(partial.c_str(), path_.c_str()) < 0) {
      done = fail_errno("cannot create '{}'", path_);
    }
    if (!done) {
      (void)::unlink(partial.c_str());  // what is wrong is told
      return done;
    }
    return sync_directory(std::filesystem::path(path_).parent_path().string());
  }

 private:
  ConfigFile(std::string path, UniqueFd lock, ordered_json root)
      : path_(std::move(path)), lock_(std::move(lock)), root_(std::move(root)) {}

  std::string path_;
  UniqueFd lock_;
  ordered_json root_;
};

}  // namespace

std::string encode_base64(std::string_view text) {
  std::string encoded((text.size() + 2) / 3 * 4 + 1, 0);
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()));
  encoded.resize(static_cast<std::size_t>(size));
  return encoded;
}

Result<std::string> decode_base64(std::string_view text) {
  std::string decoded(text.size() / 4 * 3 + 3, 0);
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(decoded.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()));
  if (size < 0) return fail("not valid base64");
  const auto padding = text.ends_with("==") ? 2u : text.ends_with("=") ? 1u : 0u;
  decoded.resize(static_cast<std::size_t>(size) - padding);
  return decoded;
}

Result<std::optional<Credentials>> find_credentials(std::string_view registry) {
  for (const auto& path : places()) {
    if (auto found = TRY(credentials_in(path, registry))) return found;
  }
  return std::nullopt;
}

Result<std::string> credentials_file() {
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text != nullptr ? text : "");
  };
  if (const auto directory = value("DOCKER_CONFIG"); !directory.empty()) {
    return directory + "/config.json";
  }
  const auto home = value("HOME");
  if (home.empty()) return fail("neither $DOCKER_CONFIG nor $HOME says where credentials are");
  return home + "/.docker/config.json";
}

Result<Kept> keep_credentials(std::string_view registry, const Credentials& credentials) {
  auto file = TRY(ConfigFile::open(TRY(credentials_file())));
  auto& root = file.root();
  const auto helper = TRY(helper_in(root, registry));
  auto auths = object_in(root, "auths");
  if (helper) {
    TRY(helper->store(key_of(registry), credentials));
    auths[key_of(registry)] = ordered_json::object();
  } else {
    auths[key_of(registry)] = {
        {"auth", encode_base64(credentials.user + ":" + credentials.password)}};
  }
  root["auths"] = std::move(auths);
  TRY(file.write());
  return helper ? Kept::by_helper : Kept::in_file;
}

Result<bool> forget_credentials(std::string_view registry) {
  const auto path = TRY(credentials_file());
  if (::access(path.c_str(), F_OK) != 0) return false;
  auto file = TRY(ConfigFile::open(path));
  auto& root = file.root();
  auto auths = object_in(root, "auths");
  bool found = false;
  for (const auto& key : keys_of(registry)) found |= auths.erase(key) > 0;
  if (const auto helper = TRY(helper_in(root, registry))) {
    if (TRY(helper->get(key_of(registry)))) {
      TRY(helper->erase(key_of(registry)));
      found = true;
    }
  }
  if (!found) return false;
  root["auths"] = std::move(auths);
  TRY(file.write());
  return true;
}

}  // namespace vmm::engine
