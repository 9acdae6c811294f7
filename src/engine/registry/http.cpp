#include "src/engine/registry/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstring>

#include "src/base/unique_fd.h"

namespace vmm::engine {
namespace {

constexpr long kMaxRedirects = 10;
constexpr std::size_t kMaxHeaders = 256u << 10;

struct Transfer {
  const HttpRequest& request;
  CURL* curl;
  HttpResponse response = {};
  std::size_t header_bytes = 0;
  std::uint64_t sent = 0;  // bytes of the request's content
  std::string error = {};
};

std::size_t on_header(char* data, std::size_t, std::size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  transfer.header_bytes += size;
  if (transfer.header_bytes > kMaxHeaders) return 0;
  const std::string_view line(data, size);
  if (line.starts_with("HTTP/")) transfer.response.headers.clear();  // of a redirect before
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return size;
  std::string name(line.substr(0, colon));
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  auto value = line.substr(colon + 1);
  const auto begin = value.find_first_not_of(" \t");
  const auto end = value.find_last_not_of(" \t\r\n");
  value =
      begin == std::string_view::npos ? std::string_view() : value.substr(begin, end + 1 - begin);
  transfer.response.headers[name] = value;
  return size;
}

std::size_t on_body(char* data, std::size_t, std::size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  long status = 0;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  if (transfer.request.on_body && (status == 200 || status == 206)) {
    const auto taken =
        transfer.request.on_body(transfer.response, std::as_bytes(std::span(data, size)));
    if (!taken) transfer.error = taken.error().message();
    return taken ? size : 0;
  }
  if (size > transfer.request.most_body - transfer.response.body.size()) {
    transfer.error = fmt::format("the answer is longer than {} bytes", transfer.request.most_body);
    return 0;
  }
  transfer.response.body.append(data, size);
  return size;
}

std::uint64_t size_of(const HttpContent& content) {
  return content.file >= 0 ? content.size : content.text.size();
}

// After that many more bytes of the content.
bool is_cancelled(Transfer& transfer, std::uint64_t sent) {
  if (transfer.request.progress == nullptr) return false;
  const auto going_on = transfer.request.progress->advance(sent);
  if (!going_on) transfer.error = going_on.error().message();
  return !going_on;
}

// curl asks about once a second, whatever comes or goes.
int on_time(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return is_cancelled(*static_cast<Transfer*>(user), 0) ? 1 : 0;
}

std::size_t on_content(char* data, std::size_t, std::size_t room, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const auto& content = transfer.request.content;
  const auto size = std::min<std::uint64_t>(room, size_of(content) - transfer.sent);
  const std::span piece(reinterpret_cast<std::byte*>(data), size);
  if (content.file < 0) {
    std::memcpy(data, content.text.data() + transfer.sent, size);
  } else if (const auto read = read_exact_at(content.file, piece, transfer.sent); !read) {
    transfer.error = read.error().message();
    return CURL_READFUNC_ABORT;
  }
  transfer.sent += size;
  return is_cancelled(transfer, size) ? CURL_READFUNC_ABORT : size;
}

// After a redirect the content is sent again.
int on_seek(void* user, curl_off_t offset, int origin) {
  if (origin != SEEK_SET || offset < 0) return CURL_SEEKFUNC_CANTSEEK;
  static_cast<Transfer*>(user)->sent = static_cast<std::uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

// As Go's client writes it in errors.
std::string_view name_of(HttpMethod method) {
  constexpr std::array<std::string_view, 4> kNames = {"Get", "Head", "Post", "Put"};
  return kNames[static_cast<std::size_t>(method)];
}

void set_method(Transfer& transfer) {
  CURL* const curl = transfer.curl;
  switch (transfer.request.method) {
    case HttpMethod::get:
      break;
    case HttpMethod::head:
      curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
      break;
    case HttpMethod::post:
      curl_easy_setopt(curl, CURLOPT_POST, 1L);
      curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
      break;
    case HttpMethod::put:
      curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
      curl_easy_setopt(curl, CURLOPT_READFUNCTION, &on_content);
      curl_easy_setopt(curl, CURLOPT_READDATA, &transfer);
      curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, &on_seek);
      curl_easy_setopt(curl, CURLOPT_SEEKDATA, &transfer);
      curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE,
                       static_cast<curl_off_t>(size_of(transfer.request.content)));
      break;
  }
}

// curl's state for the process; made once, before threads use it.
void start_curl() {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)started;  // without it no handle is made, which get() reports
}

std::string_view host_of(std::string_view url) {
  const auto begin = url.find("://");
  url = url.substr(begin == std::string_view::npos ? 0 : begin + 3);
  return url.substr(0, url.find('/'));
}

}  // namespace

struct Http::Handle {
  CURL* curl = nullptr;
  ~Handle() {
    if (curl != nullptr) curl_easy_cleanup(curl);
  }
};

Http::Http(std::chrono::seconds patience)
    : handle_(std::make_unique<Handle>()), patience_(patience) {
  start_curl();
  handle_->curl = curl_easy_init();
}
Http::Http(Http&&) noexcept = default;
Http::~Http() = default;

bool is_loopback(std::string_view host) {
  if (const auto at = host.rfind('@'); at != std::string_view::npos) return false;
  if (host.starts_with('[')) {
    in6_addr address{};
    const std::string text(host.substr(1, host.find(']') - 1));
    return ::inet_pton(AF_INET6, text.c_str(), &address) == 1 && IN6_IS_ADDR_LOOPBACK(&address);
  }
  const std::string name(host.substr(0, host.find(':')));
  in_addr address{};
  if (::inet_pton(AF_INET, name.c_str(), &address) == 1) {
    return (ntohl(address.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  return name == "localhost";
}

Result<HttpResponse> Http::send(const HttpRequest& request) {
  CURL* const curl = handle_->curl;
  if (curl == nullptr) return fail("libcurl cannot be started");
  const bool plain = is_loopback(host_of(request.url));
  if (!plain && !request.url.starts_with("https://")) {
    return fail("'{}' is not https: expected for all but this machine", request.url);
  }
  Transfer transfer{.request = request, .curl = curl};
  curl_slist* headers = nullptr;
  for (const auto& header : request.headers) headers = curl_slist_append(headers, header.c_str());
  curl_easy_reset(curl);
  const auto seconds = static_cast<long>(patience_.count());
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, plain ? "http,https" : "https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, kMaxRedirects);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, seconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, seconds);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "vmm/" VMM_VERSION);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, request.progress == nullptr ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &on_time);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  set_method(transfer);
  const auto range = fmt::format("{}-", request.offset);
  if (request.offset > 0) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  const auto code = curl_easy_perform(curl);
  curl_slist_free_all(headers);
  if (code != CURLE_OK) {
    if (!transfer.error.empty()) return fail("{}", transfer.error);
    return fail("{} \"{}\": {}", name_of(request.method), request.url, curl_easy_strerror(code));
  }
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  return std::move(transfer.response);
}

}  // namespace vmm::engine
