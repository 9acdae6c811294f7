#include "src/engine/registry/registry.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include "src/engine/image/layer_fixture.h"
#include "src/engine/registry/pull.h"
#include "src/engine/registry/push.h"
#include "src/engine/registry/test_server.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

using std::chrono::seconds;

class RegistryTest : public testing::Test {
 protected:
  RegistryTest() {
    std::signal(SIGPIPE, SIG_IGN);  // as the program does: a helper may end before it has read
    for (const auto* name : {"REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"})
      ::unsetenv(name);
    ::setenv("HOME", directory_.path().c_str(), 1);
  }

  static Reference app(const TestServer& server) {
    return *parse_reference(server.host() + "/app:1");
  }
  static Descriptor descriptor(std::string_view content) {
    return {"m", Digest::of(content), content.size(), {}, {}};
  }
  std::string fetch(const TestServer& server, const Descriptor& blob, int patience = 30) {
    Registry registry(app(server), std::nullopt, Access::pull, seconds(patience));
    const auto written = registry.blob(store_.content(), blob, Progress::none());
    return written ? *read_text_file(written->file.path()) : "error: " + written.error().message();
  }
  std::string manifest_error(const TestServer& server, const std::string& name = "1") {
    Registry registry(app(server), std::nullopt);
    const auto document = registry.manifest(name);
    return document ? "" : document.error().message();
  }

  TestDirectory directory_;
  Store store_ = *Store::open(directory_ / "root");
};

TEST_F(RegistryTest, PlainHttpIsForThisMachine) {
  for (const auto* host :
       {"localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"}) {
    EXPECT_TRUE(is_loopback(host)) << host;
  }
  for (const auto* host : {"example.org", "localhost.example.org", "10.0.0.1",
                           "127.0.0.1.example.org", "user@127.0.0.1", "[::2]:1", "0.0.0.0", ""}) {
    EXPECT_FALSE(is_loopback(host)) << host;
  }
  const auto response = Http().send({.url = "http://192.0.2.1/"});
  ASSERT_FALSE(response);
  EXPECT_NE(response.error().message().find("is not https"), std::string::npos);
}

TEST_F(RegistryTest, CredentialsAreWhereOthersLeaveThem) {
  const auto write = [this](const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(directory_ / name).parent_path());
    std::ofstream(directory_ / name) << text;
  };
  EXPECT_FALSE(*find_credentials("docker.io"));
  write(".docker/config.json", R"({"auths":{"https://index.docker.io/v1/":{"auth":")" +
                                   encode_base64("me:pa:ss") + R"("}}})");
  EXPECT_EQ((*find_credentials("docker.io"))->user, "me");
  EXPECT_EQ((*find_credentials("docker.io"))->password, "pa:ss");
  EXPECT_FALSE(*find_credentials("ghcr.io"));
  write("run/containers/auth.json",
        R"({"auths":{"ghcr.io":{"auth":")" + encode_base64("a:b") + R"("}}})");
  ::setenv("XDG_RUNTIME_DIR", (directory_ / "run").c_str(), 1);
  EXPECT_EQ((*find_credentials("ghcr.io"))->user, "a");
  ::setenv("XDG_RUNTIME_DIR", std::filesystem::relative(directory_ / "run").c_str(), 1);
  EXPECT_FALSE(*find_credentials("ghcr.io")) << "relative paths are not valid there";
  write(".docker/config.json", "{");
  EXPECT_FALSE(find_credentials("docker.io"));
  write(".docker/config.json", R"({"auths":{"docker.io":{"auth":"%"}}})");
  EXPECT_FALSE(find_credentials("docker.io"));
}

TEST_F(RegistryTest, CredentialsAreKeptBesideWhatElseTheFileSays) {
  EXPECT_FALSE(*forget_credentials("ghcr.io"));
  EXPECT_EQ(keep_credentials("ghcr.io", {"me", "pa:ss"}), Kept::in_file);
  const auto path = *credentials_file();
  EXPECT_EQ((*find_credentials("ghcr.io"))->password, "pa:ss");
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  // A link stays one, and so does what others have written.
  std::filesystem::rename(path, directory_ / "real.json");
  std::filesystem::create_symlink(directory_ / "real.json", path);
  std::ofstream(path) << R"({"psFormat":"x","auths":{"other:5000":{"auth":"YTpi"}}})";
  ASSERT_TRUE(keep_credentials("docker.io", {"you", "x"}));
  EXPECT_TRUE(std::filesystem::is_symlink(path));
  EXPECT_EQ((*find_credentials("docker.io"))->user, "you");
  EXPECT_EQ((*find_credentials("other:5000"))->user, "a");
  EXPECT_TRUE(*forget_credentials("docker.io"));
  EXPECT_FALSE(*find_credentials("docker.io"));
  const auto text = *read_text_file(path);
  EXPECT_NE(text.find("psFormat"), std::string::npos);
  EXPECT_NE(text.find("other:5000"), std::string::npos);
  EXPECT_EQ(text.find("docker"), std::string::npos);
  // Nothing is lost that cannot be read.
  std::ofstream(path) << "{";
  EXPECT_FALSE(keep_credentials("ghcr.io", {"me", "x"}));
  EXPECT_FALSE(forget_credentials("ghcr.io"));
  EXPECT_EQ(*read_text_file(path), "{");
}

TEST_F(RegistryTest, AHelperKeepsCredentials) {
  std::filesystem::create_directories(directory_ / ".docker");
  const auto config = directory_ / ".docker/config.json";
  std::ofstream(config) << R"({"credsStore":"test","credHelpers":{"bad":"../sh","gone":"none"}})";
  const auto helper = directory_ / "docker-credential-test";
  std::ofstream(helper) << "#!/bin/sh\nkept=" + directory_.path() + R"sh(/kept
case $1 in
store) cat >$kept ;;
erase) rm $kept ;;
get) [ -f $kept ] || { echo credentials not found in native keychain; exit 1; }
     [ "$(cat)" = ghcr.io ] && cat $kept ;;
esac
)sh";
  std::filesystem::permissions(helper, std::filesystem::perms::owner_all);
  const std::string before = std::getenv("PATH");
  ::setenv("PATH", (directory_.path() + ":" + before).c_str(), 1);
  ASSERT_TRUE(find_credentials("ghcr.io"));
  EXPECT_FALSE(*find_credentials("ghcr.io"));
  EXPECT_EQ(keep_credentials("ghcr.io", {"me", "secret"}), Kept::by_helper);
  EXPECT_EQ(read_text_file(config)->find("secret"), std::string::npos);
  EXPECT_EQ((*find_credentials("ghcr.io"))->password, "secret");
  EXPECT_TRUE(*forget_credentials("ghcr.io"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "kept"));
  EXPECT_FALSE(*forget_credentials("ghcr.io"));
  std::ofstream(directory_ / "kept") << "no json";
  EXPECT_FALSE(find_credentials("ghcr.io"));
  EXPECT_EQ(find_credentials("gone").error().message(),
            "cannot run 'docker-credential-none': No such file or directory");
  EXPECT_EQ(find_credentials("bad").error().message(),
            "invalid credential helper '../sh': expected a program's name");
  ::setenv("PATH", before.c_str(), 1);
}

TEST_F(RegistryTest, ABearerTokenIsAskedFor) {
  std::string host;
  TestServer server([&host](const TestRequest& request) -> TestReply {
    if (request.path.starts_with("/token")) {
      EXPECT_TRUE(request.has("service=the%20service&scope=repository%3Aapp%3Apull"));
      EXPECT_TRUE(request.has("Authorization: Basic " + encode_base64("me:secret")));
      return {.body = R"({"token":"abc"})"};
    }
    if (request.has("Authorization: Bearer abc")) return {.body = R"({"config":1})"};
    return {.status = 401,
            .headers = "WWW-Authenticate: Bearer realm=\"http://" + host +
                       "/token\",service=\"the service\",scope=\"repository:app:pull\"\r\n"};
  });
  host = server.host();
  Registry registry(app(server), Credentials{"me", "secret"});
  const auto document = registry.manifest("1");
  ASSERT_TRUE(document) << document.error().message();
  EXPECT_EQ(document->text, R"({"config":1})");
}

TEST_F(RegistryTest, BasicTakesTheCredentials) {
  TestServer server([](const TestRequest& request) -> TestReply {
    if (request.has("Authorization: Basic " + encode_base64("me:secret"))) return {.body = "{}"};
    return {.status = 401, .headers = "WWW-Authenticate: Basic realm=\"x\"\r\n"};
  });
  EXPECT_TRUE(Registry(app(server), Credentials{"me", "secret"}).manifest("1"));
  EXPECT_EQ(manifest_error(server), "no basic auth credentials");
  const auto wrong = Registry(app(server), Credentials{"me", "wrong"}).manifest("1");
  ASSERT_FALSE(wrong);
  EXPECT_TRUE(wrong.error().message().starts_with("pull access denied for "))
      << wrong.error().message();
}

TEST_F(RegistryTest, SaysWhatTheRegistrySays) {
  int status = 404;
  std::string body = R"({"errors":[{"message":"it is gone"}]})";
  TestServer server([&](const TestRequest&) { return TestReply{.status = status, .body = body}; });
  const auto name = server.host() + "/app";
  EXPECT_EQ(manifest_error(server),
            "manifest for " + name + ":1 not found: manifest unknown: it is gone");
  status = 403;
  EXPECT_TRUE(manifest_error(server).starts_with("pull access denied for " + name));
  status = 500;
  body = "<html>";
  EXPECT_TRUE(manifest_error(server).ends_with("status 500"));
  status = 200;
  EXPECT_NE(manifest_error(server, Digest::of("x").text()).find("digest mismatch"),
            std::string::npos);
  body = std::string(kMaxDocument + 1, ' ');
  EXPECT_NE(manifest_error(server).find("longer than"), std::string::npos);
}

TEST_F(RegistryTest, ABrokenDownloadGoesOn) {
  const std::string content(300'000, 'x');
  TestServer server([&content](const TestRequest& request) -> TestReply {
    const auto range = request.head.find("Range: bytes=");
    if (range == std::string::npos) return {.body = content, .sent = 100'000};
    const auto offset = std::strtoul(&request.head[range + 13], nullptr, 10);
    return {.status = 206, .body = content.substr(offset), .sent = 100'000};
  });
  EXPECT_EQ(fetch(server, descriptor(content)), content);
  EXPECT_GE(server.requests().size(), 3u);
}

TEST_F(RegistryTest, BeginsAgainWhereThereAreNoRanges) {
  const std::string content(300'000, 'x');
  int requests = 0;
  TestServer server([&](const TestRequest&) {
    return TestReply{.body = content, .sent = ++requests < 3 ? 100'000 : std::string::npos};
  });
  EXPECT_EQ(fetch(server, descriptor(content)), content);
}

TEST_F(RegistryTest, RefusesABlobThatIsNotTheOne) {
  TestServer server([](const TestRequest&) { return TestReply{.body = "content"}; });
  auto blob = descriptor("CONTENT");
  EXPECT_NE(fetch(server, blob).find("digest mismatch"), std::string::npos);
  blob.size = 3;
  EXPECT_NE(fetch(server, blob).find("larger than the 3 bytes"), std::string::npos);
  blob.size = 300;
  EXPECT_NE(fetch(server, blob).find("ends after 7 of 300 bytes"), std::string::npos);
}

TEST_F(RegistryTest, EndsWhereNothingComes) {
  const std::string content(1000, 'x');
  TestServer server(
      [&](const TestRequest&) { return TestReply{.body = content, .sent = 0, .stalls = true}; });
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(fetch(server, descriptor(content), 1).starts_with("error: Get "));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(60));
}

// An image of two platforms, of which one is there.
class PullTest : public RegistryTest {
 protected:
  std::string put(const std::string& content) {
    contents_["/v2/app/blobs/" + Digest::of(content).text()] = content;
    contents_["/v2/app/manifests/" + Digest::of(content).text()] = content;
    return fmt::format(R"("digest":"{}","size":{})", Digest::of(content).text(), content.size());
  }
  std::string layer(const std::string& content) {
    const auto archive = archive_of({file("file", content)});
    std::string text(static_cast<std::size_t>(::lseek(archive.get(), 0, SEEK_END)), 0);
    EXPECT_TRUE(read_exact_at(archive.get(), std::as_writable_bytes(std::span(text)), 0));
    return text;
  }
  void put_image() {
    const auto first = layer("1"), second = layer("2");
    const auto config = put(fmt::format(
        R"({{"os":"linux","architecture":"arm64","rootfs":{{"diff_ids":["{}","{}"]}}}})",
        Digest::of(first).text(), Digest::of(second).text()));
    const auto manifest = put(fmt::format(R"({{"config":{{{}}},"layers":[{{{}}},{{{}}}]}})", config,
                                          put(first), put(second)));
    contents_["/v2/app/manifests/1"] = fmt::format(
        R"({{"manifests":[{{{},"platform":{{"os":"linux","architecture":"arm64"}}}}]}})", manifest);
    last_layer_ = "/v2/app/blobs/" + Digest::of(second).text();
  }
  Result<Pulled> pull(const std::string& platform, const LayerEvents& events = {}) {
    TestServer server([this](const TestRequest& request) -> TestReply {
      const auto found = contents_.find(request.path);
      if (found == contents_.end()) return {.status = 404, .body = "{}"};
      return {.body = found->second};
    });
    return pull_image(store_, app(server), *Platform::parse(platform), events);
  }

  std::map<std::string, std::string> contents_;
  std::string last_layer_;
  std::set<std::string> whole_;  // layers that a cancelled pull left
};

TEST_F(PullTest, TakesTheImageOfThePlatform) {
  put_image();
  const auto pulled = pull("linux/arm64");
  ASSERT_TRUE(pulled) << pulled.error().message();
  EXPECT_TRUE(pulled->is_new);
  EXPECT_EQ(pulled->image.architecture, "arm64");
  EXPECT_EQ(pulled->digest, Digest::of(contents_["/v2/app/manifests/1"]));
  EXPECT_EQ(pulled->image.layers.size(), 2u);
  EXPECT_EQ(Catalog(store_).digests(pulled->image.id)->size(), 1u);
  const auto other = pull("linux/amd64");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().message(),
            "no matching manifest for linux/amd64 in the manifest list entries");
}

TEST_F(PullTest, TellsHowFarEachLayerIs) {
  put_image();
  std::map<std::string, std::vector<std::string>> told;
  LayerEvents events;
  events.on_layer = [&](const Digest& layer, std::string_view what) {
    told[layer.text()].emplace_back(what);
  };
  events.on_bytes = [&](const Digest& layer, std::string_view what, std::uint64_t done,
                        std::uint64_t total) {
    if (done < total) return;
    EXPECT_EQ(total, contents_["/v2/app/blobs/" + layer.text()].size());
    auto& words = told[layer.text()];
    const auto whole = fmt::format("{} done", what);
    if (words.back() != whole) words.push_back(whole);
  };
  ASSERT_TRUE(pull("linux/arm64", events));
  ASSERT_EQ(told.size(), 2u);
  const std::vector<std::string> expected = {"Pulling fs layer",   "Downloading done",
                                             "Verifying Checksum", "Download complete",
                                             "Extracting done",    "Pull complete"};
  for (const auto& [layer, words] : told) EXPECT_EQ(words, expected) << layer;
  told.clear();
  ASSERT_TRUE(pull("linux/arm64", events));
  for (const auto& [layer, words] : told) {
    EXPECT_EQ(words, std::vector<std::string>{"Already exists"}) << layer;
  }
}

// Cancelled at each word of it: whole layers are not fetched again, and nothing else is left.
TEST_F(PullTest, IsCancelledAtAnyPoint) {
  put_image();
  bool is_done = false;
  for (int at = 1; !is_done; ++at) {
    ASSERT_LT(at, 100);
    std::atomic<int> left = at;
    std::set<std::string> whole, fetched;
    LayerEvents events;
    events.on_layer = [&](const Digest& layer, std::string_view what) {
      --left;
      if (what == "Download complete" || what == "Already exists") whole.insert(layer.text());
    };
    events.on_bytes = [&](const Digest& layer, std::string_view what, std::uint64_t,
                          std::uint64_t) {
      --left;
      if (what == "Downloading") fetched.insert(layer.text());
    };
    events.is_cancelled = [&] { return left <= 0; };
    const auto pulled = pull("linux/arm64", events);
    is_done = pulled.has_value();
    if (is_done) break;
    EXPECT_TRUE(pulled.error().message().ends_with("cancelled")) << pulled.error().message();
    EXPECT_TRUE(Catalog(store_).list()->empty());
    EXPECT_TRUE(std::filesystem::is_empty(directory_ / "root/tmp")) << at;
    for (const auto& layer : whole) {
      EXPECT_TRUE(store_.content().has(Content::blob, *Digest::parse(layer))) << at;
    }
    for (const auto& layer : whole_) EXPECT_FALSE(fetched.contains(layer)) << at;
    whole_ = whole;
  }
  EXPECT_EQ(Catalog(store_).list()->size(), 1u);
}

TEST_F(RegistryTest, ADownloadThatStandsStillIsCancelled) {
  const std::string content(1000, 'x');
  TestServer server(
      [&](const TestRequest&) { return TestReply{.body = content, .sent = 10, .stalls = true}; });
  JobProgress job;
  Result<BlobWriter::Written> written = fail("not begun");
  {
    const std::jthread worker([&] {
      Registry registry(app(server), std::nullopt);
      written = registry.blob(store_.content(), descriptor(content), job);
    });
    while (job.state().done == 0) std::this_thread::yield();
    job.cancel();
  }
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().message(), "cancelled");
}

TEST_F(PullTest, LeavesNoImageWithoutAllOfIt) {
  put_image();
  contents_.erase(last_layer_);
  EXPECT_FALSE(pull("linux/arm64"));
  EXPECT_TRUE(Catalog(store_).list()->empty());
  put_image();
  contents_[last_layer_].back() = 'x';
  const auto damaged = pull("linux/arm64");
  ASSERT_FALSE(damaged);
  EXPECT_NE(damaged.error().message().find("digest mismatch"), std::string::npos);
  EXPECT_TRUE(Catalog(store_).list()->empty());
}

// An image of the store, pushed.
class PushTest : public PullTest {
 protected:
  void SetUp() override {
    put_image();
    image_ = pull("linux/arm64")->image;
    digest_ = image_.manifest;
  }
  // A registry that takes uploads, by default at a path of its own.
  TestReply take(const TestRequest& request) {
    if (request.method == "HEAD") return {.status = uploaded_.contains(request.path) ? 200 : 404};
    if (request.method == "POST") {
      return {.status = 202, .headers = "Location: " + place_ + "/upload?state=1\r\n"};
    }
    const std::string_view path = request.path;
    if (path.starts_with("/upload")) {
      EXPECT_NE(path.find("?state=1&digest=sha256%3A"), std::string_view::npos);
      const auto digest = Digest::of(request.body);
      EXPECT_TRUE(path.ends_with(digest.hex()));
      uploaded_["/v2/app/blobs/" + digest.text()] = request.body;
    } else {
      EXPECT_TRUE(request.has("Content-Type: application/vnd.oci.image.manifest.v1+json"));
      uploaded_[std::string(path)] = request.body;
    }
    return {.status = 201};
  }
  std::string push(const TestServer& server, std::vector<std::string>* told = nullptr) {
    LayerEvents events;
    events.on_layer = [told](const Digest&, std::string_view what) {
      if (told != nullptr) told->emplace_back(what);
    };
    const auto pushed = push_image(store_, image_, app(server), events);
    return pushed ? pushed->digest.text() : "error: " + pushed.error().message();
  }

  Image image_;
  Digest digest_;
  std::string place_;
  std::map<std::string, std::string> uploaded_;
  std::mutex mutex_;
};

TEST_F(PushTest, SendsWhatTheRegistryLacks) {
  TestServer server([this](const TestRequest& request) {
    const std::lock_guard lock(mutex_);
    return take(request);
  });
  std::vector<std::string> told;
  EXPECT_EQ(push(server, &told), digest_.text());
  EXPECT_EQ(uploaded_.size(), 4u) << "two layers, the configuration and the manifest";
  EXPECT_EQ(Digest::of(uploaded_["/v2/app/manifests/1"]), digest_);
  EXPECT_EQ(std::ranges::count(told, "Pushed"), 2);
  told.clear();
  EXPECT_EQ(push(server, &told), digest_.text());
  EXPECT_EQ(std::ranges::count(told, "Layer already exists"), 2);
}

TEST_F(PushTest, IsWatchedAndCancelled) {
  TestServer server([this](const TestRequest& request) {
    const std::lock_guard lock(mutex_);
    return take(request);
  });
  std::map<std::string, std::uint64_t> sent;
  std::atomic<bool> is_cancelled = true;
  LayerEvents events;
  events.on_bytes = [&](const Digest& layer, std::string_view what, std::uint64_t done,
                        std::uint64_t total) {
    EXPECT_EQ(what, "Pushing");
    EXPECT_LE(done, total);
    sent[layer.text()] = done;
  };
  events.is_cancelled = [&] { return is_cancelled.load(); };
  const auto cancelled = push_image(store_, image_, app(server), events);
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().message(), "cancelled");
  EXPECT_TRUE(uploaded_.empty());
  is_cancelled = false;
  ASSERT_TRUE(push_image(store_, image_, app(server), events));
  ASSERT_EQ(sent.size(), 2u);
  for (const auto& [layer, done] : sent) {
    EXPECT_EQ(done, uploaded_["/v2/app/blobs/" + layer].size()) << layer;
  }
}

TEST_F(PushTest, AnUploadThatBreaksOffIsSentAgain) {
  int uploads = 0;
  TestServer server([&](const TestRequest& request) -> TestReply {
    const std::lock_guard lock(mutex_);
    const bool is_upload = request.path.starts_with("/upload");
    if (is_upload && ++uploads == 1) return {.closes = true};
    if (is_upload && uploads == 2) return {.status = 503};
    return take(request);
  });
  EXPECT_EQ(push(server), digest_.text());
  EXPECT_EQ(uploaded_.size(), 4u);
}

TEST_F(PushTest, WhatIsRefusedIsNoImageThere) {
  TestServer server([&](const TestRequest& request) -> TestReply {
    const std::lock_guard lock(mutex_);
    if (request.method != "POST") return take(request);
    return {.status = 403, .body = R"({"errors":[{"code":"DENIED","message":"not yours"}]})"};
  });
  EXPECT_EQ(push(server), "error: denied: not yours");
  EXPECT_TRUE(uploaded_.empty());
  EXPECT_LE(std::ranges::count(server.requests(), "POST", &TestRequest::method), 3);
}

TEST_F(PushTest, AnotherHostLearnsNothingOfCredentials) {
  std::string other_head;
  TestServer other([&](const TestRequest& request) -> TestReply {
    const std::lock_guard lock(mutex_);
    other_head += request.head;
    return take(request);
  });
  place_ = "http://" + other.host();
  TestServer server([&](const TestRequest& request) -> TestReply {
    if (!request.has("Authorization: Basic ")) {
      return {.status = 401, .headers = "WWW-Authenticate: Basic realm=\"x\"\r\n"};
    }
    const std::lock_guard lock(mutex_);
    return take(request);
  });
  ASSERT_TRUE(keep_credentials(server.host(), {"me", "secret"}));
  EXPECT_EQ(push(server), digest_.text());
  EXPECT_NE(other_head.find("PUT /upload"), std::string::npos);
  EXPECT_EQ(other_head.find("Authorization"), std::string::npos);
}

}  // namespace
}  // namespace vmm::engine
