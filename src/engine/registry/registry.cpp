#include "src/engine/registry/registry.h"

#include <curl/curl.h>

#include <algorithm>
#include <map>

#include "src/base/json.h"

namespace vmm::engine {
namespace {

constexpr int kMaxFailures = 5;  // of a download, in a row without a byte
constexpr std::string_view kAccepted =
    "Accept: application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json";

std::string escape(std::string_view text) {
  char* escaped = curl_easy_escape(nullptr, text.data(), static_cast<int>(text.size()));
  std::string result = escaped != nullptr ? escaped : "";
  curl_free(escaped);
  return result;
}

// `Bearer realm="...",service="..."` (RFC 9110, 11.6.1): the parameters, after the scheme.
std::map<std::string, std::string> parse_parameters(std::string_view text) {
  std::map<std::string, std::string> parameters;
  while (true) {
    const auto begin = text.find_first_not_of(" ,\t");
    const auto equals = text.find('=');
    if (begin == std::string_view::npos || equals == std::string_view::npos || begin > equals) {
      return parameters;
    }
    const std::string name(text.substr(begin, equals - begin));
    text.remove_prefix(equals + 1);
    const bool is_quoted = text.starts_with('"');
    if (is_quoted) text.remove_prefix(1);
    const auto end = std::min(text.find(is_quoted ? '"' : ','), text.size());
    parameters[name] = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

struct RegistryError {
  std::string code, message;  // "DENIED", "requested access to the resource is denied"
};

RegistryError error_in(const HttpResponse& response) {
  RegistryError error{{}, fmt::format("status {}", response.status)};
  const auto root = parse_json(response.body);
  if (!root || !root->is_object() || !root->contains("errors")) return error;
  const auto& errors = (*root)["errors"];
  if (!errors.is_array() || errors.empty() || !errors[0].is_object()) return error;
  const auto text = [&errors](const char* name) {
    const auto found = errors[0].find(name);
    return found != errors[0].end() && found->is_string() ? found->get<std::string>() : "";
  };
  error.code = text("code");
  if (auto message = text("message"); !message.empty()) error.message = std::move(message);
  return error;
}

// What the registry says of an error, if it says something.
std::string message_of(const HttpResponse& response) { return error_in(response).message; }

// With the kind before it, as Docker shows it: "denied: requested access ...".
std::string error_of(const HttpResponse& response) {
  auto [code, message] = error_in(response);
  if (code.empty()) return message;
  std::ranges::transform(code, code.begin(), [](unsigned char c) {
    return c == '_' ? ' ' : static_cast<char>(std::tolower(c));
  });
  return code + ": " + message;
}

}  // namespace

Registry::Registry(const Reference& reference, std::optional<Credentials> credentials,
                   Access access, std::chrono::seconds patience)
    : http_(patience),
      reference_(reference),
      credentials_(std::move(credentials)),
      access_(access) {}

std::string Registry::url(std::string_view path) const {
  return fmt::format("{}/v2/{}/{}", base_, reference_.path, path);
}

// A registry on this machine may have no certificate.
Result<void> Registry::find_scheme() {
  if (!base_.empty()) return {};
  const auto host =
      reference_.registry == "docker.io" ? "registry-1.docker.io" : reference_.registry;
  base_ = "https://" + host;
  if (!is_loopback(host)) return {};
  if (const auto secure = http_.send({.url = base_ + "/v2/"}); !secure) base_ = "http://" + host;
  return {};
}

Result<HttpResponse> Registry::send(HttpRequest request) {
  const auto headers = request.headers;
  // An upload may be to go to another host, which is to learn nothing of this one's tokens.
  const bool is_own = request.url.starts_with(base_ + "/");
  for (bool again = false;; again = true) {
    if (is_own && !authorization_.empty()) {
      request.headers.push_back("Authorization: " + authorization_);
    }
    auto response = TRY(http_.send(request));
    if (response.status != 401 || again || !is_own) return response;
    TRY(answer_challenge(response.headers["www-authenticate"]));
    request.headers = headers;
  }
}

Result<void> Registry::answer_challenge(const std::string& challenge) {
  const auto space = challenge.find(' ');
  std::string scheme = challenge.substr(0, space);
  std::ranges::transform(scheme, scheme.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto basic =
      credentials_ ? "Basic " + encode_base64(credentials_->user + ":" + credentials_->password)
                   : std::string();
  if (scheme == "basic") {
    if (basic.empty()) return fail("no basic auth credentials");
    authorization_ = basic;
    return {};
  }
  if (scheme != "bearer") return fail("the registry asks for '{}', which is not supported", scheme);
  auto parameters =
      parse_parameters(space == std::string::npos ? "" : std::string_view(challenge).substr(space));
  if (parameters["scope"].empty() && !reference_.path.empty()) {
    parameters["scope"] = fmt::format("repository:{}:{}", reference_.path,
                                      access_ == Access::push ? "pull,push" : "pull");
  }
  HttpRequest request;
  request.url = fmt::format("{}?service={}", parameters["realm"], escape(parameters["service"]));
  if (!parameters["scope"].empty()) request.url += "&scope=" + escape(parameters["scope"]);
  if (!basic.empty()) request.headers.push_back("Authorization: " + basic);
  const auto response = TRY(http_.send(request));
  if (response.status != 200) return fail("unauthorized: {}", message_of(response));
  const auto root = parse_json(response.body);
  for (const auto* name : {"token", "access_token"}) {
    if (!root || !root->is_object() || !root->contains(name)) continue;
    const auto& token = (*root)[name];
    // It becomes a line of a request.
    if (!token.is_string() || token.get<std::string>().find_first_of("\r\n") != std::string::npos) {
      continue;
    }
    authorization_ = "Bearer " + token.get<std::string>();
    return {};
  }
  return fail("the answer of '{}' has no token", parameters["realm"]);
}

Result<Document> Registry::manifest(const std::string& tag_or_digest) {
  TRY(find_scheme());
  HttpRequest request;
  request.url = url("manifests/" + tag_or_digest);
  request.headers = {std::string(kAccepted)};
  request.most_body = kMaxDocument;
  auto response = TRY(send(request));
  const auto name = familiar_repository(reference_.repository());
  if (response.status == 401 || response.status == 403) {
    return fail(
        "pull access denied for {}, repository does not exist or may require 'docker "
        "login': denied: {}",
        name, message_of(response));
  }
  if (response.status == 404) {
    return fail("manifest for {}{}{} not found: manifest unknown: {}", name,
                tag_or_digest.find(':') == std::string::npos ? ":" : "@", tag_or_digest,
                message_of(response));
  }
  if (response.status != 200) {
    return fail("received unexpected HTTP status from {}: {}", request.url, message_of(response));
  }
  Document document{std::move(response.body), {}};
  document.digest = Digest::of(document.text);
  const bool by_digest = tag_or_digest.find(':') != std::string::npos;
  if (by_digest && document.digest.text() != tag_or_digest) {
    return fail("manifest {}: digest mismatch: the registry sent {}", tag_or_digest,
                document.digest.text());
  }
  return document;
}

Result<BlobWriter::Written> Registry::blob(const ContentStore& content,
                                           const Descriptor& descriptor, Progress& progress) {
  TRY(find_scheme());
  auto writer = TRY(BlobWriter::create(content));
  progress.begin("Downloading", descriptor.size);
  for (int failures = 0; writer.size() < descriptor.size || descriptor.size == 0;) {
    const auto before = writer.size();
    HttpRequest request;
    request.url = url("blobs/" + descriptor.digest.text());
    request.offset = before;
    request.progress = &progress;
    bool is_fatal = false, is_first = true;
    request.on_body = [&](const HttpResponse& head,
                          std::span<const std::byte> piece) -> Result<void> {
      is_fatal = true;  // until this piece is written
      // A registry that knows no ranges begins again.
      if (is_first && head.status == 200 && before > 0) {
        writer = TRY(BlobWriter::create(content));
        progress.begin("Downloading", descriptor.size);
      }
      is_first = false;
      if (piece.size() > descriptor.size - writer.size()) {
        return fail("blob {} is larger than the {} bytes of its manifest", descriptor.digest.text(),
                    descriptor.size);
      }
      TRY(writer.write(piece));
      TRY(progress.advance(piece.size()));
      is_fatal = false;
      return {};
    };
    const auto response = send(request);
    if (is_fatal) return std::unexpected(response.error());
    TRY(progress.advance(0));  // cancelled while nothing came
    if (response && response->status != 200 && response->status != 206 && response->status < 500) {
      return fail("blob {}: {}", descriptor.digest.text(), message_of(*response));
    }
    if (response && writer.size() == descriptor.size) break;
    failures = writer.size() > before ? 0 : failures + 1;
    if (failures == kMaxFailures) {
      if (!response) return std::unexpected(response.error());
      if (response->status >= 500) {
        return fail("blob {}: {}", descriptor.digest.text(), message_of(*response));
      }
      return fail("blob {} ends after {} of {} bytes", descriptor.digest.text(), writer.size(),
                  descriptor.size);
    }
  }
  auto written = writer.finish();
  if (written.digest != descriptor.digest) {
    return fail("blob {}: digest mismatch: the registry sent {}", descriptor.digest.text(),
                written.digest.text());
  }
  return written;
}

// --- Uploads

Result<bool> Registry::has_blob(const Digest& digest) {
  TRY(find_scheme());
  HttpRequest request;
  request.method = HttpMethod::head;
  request.url = url("blobs/" + digest.text());
  const auto response = TRY(send(request));
  // Some registries let nobody look at what is not there; the upload says what is wrong.
  return response.status == 200;
}

// The place of an upload is the registry's to choose: a path of it, or another host.
Result<HttpResponse> Registry::upload_once(const Descriptor& descriptor, int fd,
                                           Progress& progress) {
  progress.begin("Pushing", descriptor.size);
  HttpRequest begin;
  begin.method = HttpMethod::post;
  begin.url = url("blobs/uploads/");
  auto begun = TRY(send(begin));
  if (begun.status != 202) return begun;
  auto place = begun.headers["location"];
  if (place.starts_with('/')) place = base_ + place;
  HttpRequest request;
  request.method = HttpMethod::put;
  request.url = fmt::format("{}{}digest={}", place, place.contains('?') ? '&' : '?',
                            escape(descriptor.digest.text()));
  request.headers = {"Content-Type: application/octet-stream"};
  request.content = {.text = {}, .file = fd, .size = descriptor.size};
  request.progress = &progress;
  return send(request);
}

Result<void> Registry::upload_blob(const Descriptor& descriptor, int fd, Progress& progress) {
  TRY(find_scheme());
  for (int failures = 1;; ++failures) {
    const auto response = upload_once(descriptor, fd, progress);
    TRY(progress.advance(0));  // cancelled
    if (response && response->status == 201) return {};
    if (response && (response->status < 500 || failures == kMaxFailures)) {
      return fail("{}", error_of(*response));
    }
    if (failures == kMaxFailures) return std::unexpected(response.error());
  }
}

Result<void> Registry::upload_manifest(const std::string& tag, const Document& document,
                                       const std::string& media_type) {
  TRY(find_scheme());
  HttpRequest request;
  request.method = HttpMethod::put;
  request.url = url("manifests/" + tag);
  request.headers = {"Content-Type: " + media_type};
  request.content.text = document.text;
  const auto response = TRY(send(request));
  if (response.status != 201) return fail("{}", error_of(response));
  return {};
}

Result<void> Registry::log_in() {
  TRY(find_scheme());
  const auto place = base_ + "/v2/";
  const auto response = send({.url = place});
  if (!response) return fail("Get \"{}\": {}", place, response.error().message());
  if (response->status != 200) {
    return fail("login attempt to {} failed with status: {}", place,
                response->status == 401 ? "401 Unauthorized" : std::to_string(response->status));
  }
  return {};
}

}  // namespace vmm::engine
