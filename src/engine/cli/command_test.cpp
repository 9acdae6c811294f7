// Whole commands: the program is run, in a store of the test.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "src/engine/image/layer_fixture.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Ran {
  int code = -1;
  std::string out, err;
};

class CommandTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* program = std::getenv("VMM_ENGINE");
    ASSERT_NE(program, nullptr) << "VMM_ENGINE names the program";
    program_ = program;
    ::setenv("VMM_ROOT", (directory_ / "root").c_str(), 1);
  }

  pid_t start(const std::string& name, std::vector<std::string> words, const std::string& input) {
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, input.c_str(), O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, 1, (directory_ / "out").c_str(),
                                       O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::posix_spawn_file_actions_addopen(&actions, 2, (directory_ / "err").c_str(),
                                       O_WRONLY | O_CREAT | O_TRUNC, 0644);
    words.insert(words.begin(), name);
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t process = 0;
    EXPECT_EQ(::posix_spawn(&process, program_.c_str(), &actions, nullptr, argv.data(), environ),
              0);
    ::posix_spawn_file_actions_destroy(&actions);
    return process;
  }

  Ran run(std::vector<std::string> words, const std::string& input = "/dev/null",
          const std::string& name = "vmm") {
    const pid_t process = start(name, std::move(words), input);
    int status = 0;
    EXPECT_EQ(::waitpid(process, &status, 0), process);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, *read_text_file(directory_ / "out"),
            *read_text_file(directory_ / "err")};
  }
  // Of a command that has to work.
  std::string output(std::vector<std::string> words, const std::string& input = "/dev/null") {
    const auto ran = run(std::move(words), input);
    EXPECT_EQ(ran.code, 0) << ran.err;
    EXPECT_EQ(ran.err, "");
    return ran.out;
  }

  std::string write_archive(const std::string& name, const std::vector<Entry>& entries) {
    const auto path = directory_ / name;
    const auto to = *open_file(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    append(to.get(), archive_of(entries).get());
    return path;
  }

  // Imports a small root; its id.
  std::string imported(const std::string& name, const std::string& content = "content") {
    const auto archive = write_archive("root.tar", {directory("etc"), file("etc/file", content)});
    auto id = output({"import", archive, name});
    id.pop_back();
    return id;
  }

  std::size_t files_below(const std::string& name) {
    const auto is_file = [](const auto& entry) { return entry.is_regular_file(); };
    return static_cast<std::size_t>(
        std::ranges::count_if(fs::recursive_directory_iterator(directory_ / name), is_file));
  }

  TestDirectory directory_;
  std::string program_;
};

TEST_F(CommandTest, ImagesAreListed) {
  EXPECT_EQ(output({"images"}), "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
  const auto id = imported("busybox:1", std::string(1'234'567, 'x'));
  const auto short_id = id.substr(7, 12);
  EXPECT_EQ(
      output({"images", "--format", "{{.Repository}} {{.Tag}} {{.ID}} {{.Size}} {{.Digest}}"}),
      "busybox 1 " + short_id + " 1.23MB <none>\n");
  EXPECT_EQ(output({"images", "-q"}), short_id + "\n");
  EXPECT_EQ(output({"image", "ls", "-q", "--no-trunc"}), id + "\n");
  EXPECT_EQ(output({"images"}).substr(0, 45), "REPOSITORY   TAG       IMAGE ID       CREATED");
  EXPECT_NE(output({"images", "--digests"}).find("DIGEST"), std::string::npos);
  const auto row = json::parse(output({"images", "--format", "json"}));
  EXPECT_EQ(row["Repository"], "busybox");
  EXPECT_EQ(row["ID"], short_id);
}

TEST_F(CommandTest, ImagesAreFiltered) {
  imported("one/a:1", "1");
  imported("two/b:2", "2");
  imported("two/b:2", "3");  // the one before is dangling
  const auto list = [this](std::vector<std::string> words) {
    words.insert(words.begin(), {"images", "--format", "{{.Repository}}:{{.Tag}}"});
    auto text = output(words);
    std::vector<std::string> lines;
    for (std::size_t at; (at = text.find('\n')) != std::string::npos; text.erase(0, at + 1)) {
      lines.push_back(text.substr(0, at));
    }
    std::ranges::sort(lines);
    return lines;
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(list({}), (Lines{"<none>:<none>", "one/a:1", "two/b:2"}));
  EXPECT_EQ(list({"one/a"}), Lines{"one/a:1"});
  EXPECT_EQ(list({"two/b:1"}), Lines{});
  EXPECT_EQ(list({"-f", "reference=*/b"}), Lines{"two/b:2"});
  EXPECT_EQ(list({"-f", "dangling=true"}), Lines{"<none>:<none>"});
  EXPECT_EQ(list({"-f", "dangling=false", "-f", "label=x"}), Lines{});
  EXPECT_EQ(list({"-f", "until=1h"}), Lines{});
  EXPECT_EQ(run({"images", "-f", "color=red"}).err, "vmm: invalid filter 'color'\n");
  EXPECT_EQ(run({"images", "-f", "until=x"}).code, 1);
}

TEST_F(CommandTest, SaveAndLoadKeepIdsAndNames) {
  const auto id = imported("busybox:1");
  output({"tag", "busybox:1", "me/app"});
  const auto archive = directory_ / "saved.tar";
  output({"save", "-o", archive, "busybox", "me/app"});
  EXPECT_EQ(output({"rmi", "-f", id}).substr(0, 42), "Untagged: busybox:1\nUntagged: me/app:lates");
  EXPECT_EQ(output({"images", "-q"}), "");
  EXPECT_EQ(output({"load", "-i", archive}),
            "Loaded image: busybox:1\nLoaded image: me/app:latest\n");
  EXPECT_EQ(output({"images", "-q", "--no-trunc"}), id + "\n" + id + "\n");
  // By its id, without a name; compressed; from standard input.
  output({"save", "-o", archive, id});
  output({"rmi", "-f", id});
  ASSERT_EQ(std::system(("gzip -f " + archive).c_str()), 0);
  EXPECT_EQ(output({"load"}, archive + ".gz"), "Loaded image ID: " + id + "\n");
}

// The archive's formats as skopeo knows them, both ways.
TEST_F(CommandTest, SavedArchivesAreReadByOthers) {
  if (std::system("skopeo --version >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "skopeo is not installed; tools/setup installs it";
  }
  const auto id = imported("busybox:1");
  const auto archive = directory_ / "saved.tar";
  output({"save", "-o", archive, "busybox:1"});
  output({"rmi", "busybox:1"});
  const auto copy = [this](const std::string& from, const std::string& to) {
    const auto command = fmt::format("skopeo --tmpdir {} copy --insecure-policy {} {} >{}/log 2>&1",
                                     directory_.path(), from, to, directory_.path());
    EXPECT_EQ(std::system(command.c_str()), 0) << command << *read_text_file(directory_ / "log");
  };
  copy("docker-archive:" + archive,
       "docker-archive:" + (directory_ / "docker.tar") + ":a/docker:2");
  copy("oci-archive:" + archive, "oci-archive:" + (directory_ / "oci.tar") + ":a/oci:3");
  EXPECT_EQ(output({"load", "-i", directory_ / "docker.tar"}), "Loaded image: a/docker:2\n");
  EXPECT_EQ(output({"load", "-i", directory_ / "oci.tar"}), "Loaded image: a/oci:3\n");
  EXPECT_EQ(output({"inspect", "-f", "{{.Id}}", "a/docker:2", "a/oci:3"}), id + "\n" + id + "\n");
}

TEST_F(CommandTest, AMachinesDiskIsWhatWasImported) {
  const auto id = imported("app");
  auto files = output({"image", "inspect", "--format", "{{.GraphDriver.Data.Files}}", "app"});
  files.pop_back();
  const auto disk = memory_file();
  for (std::size_t begin = 0; begin < files.size();) {
    const auto end = std::min(files.find(':', begin), files.size());
    append(disk.get(), open_file(files.substr(begin, end - begin), O_RDONLY)->get());
    begin = end + 1;
  }
  std::string text;
  list_directory(disk.get(), erofs::read_image(disk.get())->tree, 0, "", text);
  EXPECT_EQ(text, "/etc d 755\n/etc/file f content\n");
}

TEST_F(CommandTest, InspectSaysWhatItDoesNotFind) {
  const auto id = imported("app");
  const auto found = json::parse(output({"inspect", "app"}));
  EXPECT_EQ(found[0]["Id"], id);
  EXPECT_EQ(found[0]["RepoTags"], json({"app:latest"}));
  EXPECT_EQ(found[0]["RootFS"]["Layers"].size(), 1u);
  const auto missing = run({"inspect", "none"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_EQ(missing.out, "[]\n");
  EXPECT_EQ(missing.err, "vmm: No such object: none\n");
  EXPECT_EQ(run({"inspect", "none"}, "/dev/null", "/x/docker").err,
            "Error: No such object: none\n");
  EXPECT_EQ(run({"image", "inspect", "none"}).err, "vmm: No such image: none:latest\n");
}

TEST_F(CommandTest, HistoryHasTheLastStepFirst) {
  const auto id = imported("app");
  EXPECT_EQ(output({"history", "--format", "{{.ID}} {{.Size}} {{.Comment}}", "app"}),
            id.substr(7, 12) + " 7B Imported from " + (directory_ / "root.tar") + "\n");
}

TEST_F(CommandTest, HistoryIsForPeopleUnlessAsked) {
  imported("app", std::string(12'345, 'x'));
  EXPECT_EQ(output({"history", "--format", "{{.Size}}", "app"}), "12.3kB\n");
  EXPECT_EQ(output({"history", "--human=false", "--format", "{{.Size}}", "app"}), "12345\n");
}

TEST_F(CommandTest, RemovalIsInDockersWords) {
  const auto id = imported("a/b:1");
  output({"tag", "a/b:1", "c:2"});
  const auto conflict = run({"rmi", id.substr(7, 12)});
  EXPECT_EQ(conflict.code, 1);
  EXPECT_EQ(conflict.err, "vmm: conflict: unable to delete " + id.substr(7, 12) +
                              " (must be forced) - image is referenced in multiple repositories\n");
  EXPECT_EQ(output({"rmi", "c:2"}), "Untagged: c:2\n");
  const auto layer = output({"inspect", "-f", "{{index .RootFS.Layers 0}}", "a/b:1"});
  EXPECT_EQ(output({"rmi", "a/b:1"}), "Untagged: a/b:1\nDeleted: " + id + "\nDeleted: " + layer);
  for (const auto* folder : {"root/blobs", "root/layers", "root/merged", "root/tmp"}) {
    EXPECT_EQ(files_below(folder), 0u) << folder;
  }
  EXPECT_EQ(run({"rmi", "none"}).code, 1);
  EXPECT_EQ(run({"rmi", "-f", "none"}).code, 0);
}

TEST_F(CommandTest, PruneTakesDanglingImages) {
  imported("app", "1");
  imported("app", "2");
  EXPECT_NE(output({"image", "prune"}).find("[y/N]"), std::string::npos);
  EXPECT_NE(output({"image", "prune", "-f"}).find("Deleted Images:\ndeleted: sha256:"),
            std::string::npos);
  EXPECT_EQ(output({"image", "prune", "-f"}), "Total reclaimed space: 0B\n");
  EXPECT_EQ(files_below("root/merged"), 1u);
  output({"image", "prune", "-af"});
  EXPECT_EQ(files_below("root/blobs"), 0u);
}

TEST_F(CommandTest, RefusesWhatIsNoImage) {
  const auto refused = [this](const std::vector<Entry>& entries, std::string_view what) {
    const auto ran = run({"load", "-i", write_archive("bad.tar", entries)});
    EXPECT_EQ(ran.code, 1) << what;
    EXPECT_NE(ran.err.find(what), std::string::npos) << ran.err;
    EXPECT_EQ(output({"images", "-q"}), "");
    EXPECT_EQ(files_below("root/tmp"), 0u);
  };
  const auto config = R"({"rootfs":{"diff_ids":[")" + Digest::of("x").text() + R"("]}})";
  const auto manifest = R"([{"Config":"c","Layers":["l"],"RepoTags":["a:b"]}])";
  refused({}, "neither manifest.json nor index.json");
  refused({file("manifest.json", "{}")}, "expected a list");
  refused({file("manifest.json", "[{")}, "not valid JSON");
  refused({file("manifest.json", manifest)}, "has no file 'c'");
  refused({file("manifest.json", manifest), file("c", config)}, "has no file 'l'");
  refused({file("manifest.json", manifest), file("c", "{}"), file("l", "")}, "has 1 layers");
  refused({file("manifest.json", manifest), file("c", config), file("l", "")}, "digest mismatch");
  refused({file("manifest.json", manifest), file("c", config), file("l", "text")}, "layer sha256:");
  refused({file("manifest.json", manifest), symlink("c", "c")}, "has no file 'c'");
  refused({file("index.json", R"({"manifests":[{"digest":"sha256:1","size":1}]})")},
          "invalid digest");
  EXPECT_EQ(run({"load", "-i", directory_ / "none"}).code, 1);
  EXPECT_EQ(run({"load"}, write_archive("empty", {})).code, 1);
}

TEST_F(CommandTest, SaysHowItIsUsed) {
  const auto flag = run({"images", "--foo"});
  EXPECT_EQ(flag.code, 125);
  EXPECT_EQ(flag.err,
            "unknown flag: --foo\n\nUsage:  vmm images [OPTIONS] [REPOSITORY[:TAG]]\n\n"
            "Run 'vmm images --help' for more information\n");
  const auto number = run({"tag", "x"}, "/dev/null", "docker");
  EXPECT_EQ(number.code, 1);
  EXPECT_EQ(number.err,
            "docker: 'docker tag' requires 2 arguments\n\n"
            "Usage:  docker tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]\n\n"
            "Run 'docker tag --help' for more information\n");
  EXPECT_TRUE(
      run({"run"}).err.contains("\nUsage:  vmm run [OPTIONS] IMAGE [COMMAND] [ARG...]\n"
                                "        vmm run [OPTIONS] --from SNAPSHOT\n"));
  EXPECT_NE(output({"image", "--help"}).find("prune"), std::string::npos);
  EXPECT_NE(output({"save", "--help"}).find("-o, --output string"), std::string::npos);
  EXPECT_EQ(run({"imges"}).code, 1);
  EXPECT_EQ(run({"tag", "x", "UPPER"}).err,
            "vmm: Error parsing reference: \"UPPER\" is not a valid repository/tag: invalid "
            "reference format: repository name (library/UPPER) must be lowercase\n");
}

// Debian's registry, which asks for a password, and skopeo that fills it.
class RegistryProcess {
 public:
  RegistryProcess(const TestDirectory& directory, const std::string& port) {
    // The password of "user" is "secret", by bcrypt.
    std::ofstream(directory / "htpasswd") << "user:" << kSecret << "\n";
    std::ofstream(directory / "registry.yml")
        << "version: 0.1\nlog: {accesslog: {disabled: true}, level: error}\n"
        << "storage: {filesystem: {rootdirectory: " << directory / "registry" << "}}\n"
        << "http: {addr: '127.0.0.1:" << port << "'}\n"
        << "auth: {htpasswd: {realm: test, path: " << directory / "htpasswd" << "}}\n";
    const auto config = directory / "registry.yml";
    std::array<char*, 4> argv = {const_cast<char*>("docker-registry"), const_cast<char*>("serve"),
                                 const_cast<char*>(config.c_str()), nullptr};
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 2, (directory / "registry.log").c_str(),
                                       O_WRONLY | O_CREAT, 0644);
    EXPECT_EQ(::posix_spawnp(&process_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  RegistryProcess(const RegistryProcess&) = delete;
  ~RegistryProcess() {
    ::kill(process_, SIGKILL);
    (void)::waitpid(process_, nullptr, 0);  // its end is all that is waited for
  }

 private:
  static constexpr auto kSecret = "$2y$04$o2b64cNl35ogkPIdgJyeYO4wx5OH5mK.P.HH/x/L1yx.7C3kVxS/6";
  pid_t process_ = 0;
};

std::string free_port() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  auto* const name = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(::bind(fd.get(), name, size), 0);
  EXPECT_EQ(::getsockname(fd.get(), name, &size), 0);
  return std::to_string(ntohs(address.sin_port));
}

TEST_F(CommandTest, PullsFromARegistryThatAsksForAPassword) {
  for (const auto* program : {"skopeo", "docker-registry"}) {
    if (std::system(fmt::format("{} --version >/dev/null 2>&1", program).c_str()) != 0) {
      GTEST_SKIP() << program << " is not installed; tools/setup installs it";
    }
  }
  const auto id = imported("app:1");
  output({"save", "-o", directory_ / "saved.tar", "app:1"});
  output({"rmi", "app:1"});
  const auto port = free_port();
  const RegistryProcess registry(directory_, port);
  const auto name = "127.0.0.1:" + port + "/team/app:1";
  const auto copy = fmt::format(
      "for i in $(seq 100); do skopeo --tmpdir {0} copy --insecure-policy --dest-tls-verify=false "
      "--dest-creds user:secret oci-archive:{0}/saved.tar docker://{1} >{0}/log 2>&1 && exit; "
      "sleep 0.2; done; exit 1",
      directory_.path(), name);
  ASSERT_EQ(std::system(copy.c_str()), 0) << *read_text_file(directory_ / "log");
  ::setenv("REGISTRY_AUTH_FILE", (directory_ / "auth.json").c_str(), 1);
  const auto denied = run({"pull", name});
  EXPECT_EQ(denied.code, 1);
  EXPECT_NE(denied.err.find("no basic auth credentials"), std::string::npos) << denied.err;
  std::ofstream(directory_ / "auth.json")
      << R"({"auths":{"127.0.0.1:)" << port << R"(":{"auth":"dXNlcjpzZWNyZXQ="}}})";
  const auto text = output({"pull", name});
  EXPECT_TRUE(text.starts_with("1: Pulling from team/app\n")) << text;
  EXPECT_NE(text.find(": Download complete\n"), std::string::npos);
  EXPECT_NE(text.find("Status: Downloaded newer image for " + name + "\n" + name + "\n"),
            std::string::npos)
      << text;
  EXPECT_EQ(output({"inspect", "-f", "{{.Id}}", name}), id + "\n");
  EXPECT_NE(output({"pull", name}).find("Status: Image is up to date"), std::string::npos);
  const auto digest = output({"images", "--format", "{{.Digest}}", "--digests"});
  const auto by_digest = "127.0.0.1:" + port + "/team/app@" + digest.substr(0, digest.size() - 1);
  EXPECT_TRUE(output({"pull", "-q", by_digest}).ends_with(by_digest + "\n"));
  EXPECT_NE(run({"pull", "127.0.0.1:" + port + "/team/none"}).err.find("not found"),
            std::string::npos);
}

// Killed at many instants of a load, the store lists what was there, and the load works after it.
TEST_F(CommandTest, ALoadMayBeKilledAtAnyInstant) {
  imported("kept", "kept");
  imported("app", std::string(3'000'000, 'x'));
  const auto archive = directory_ / "saved.tar";
  output({"save", "-o", archive, "app"});
  output({"rmi", "app"});
  for (int round = 0; round < 12; ++round) {
    const pid_t process = start("vmm", {"load", "-i", archive}, "/dev/null");
    // check: sleeps allowed, another instant each round is what is tested
    ::usleep(static_cast<useconds_t>(round) * 4000);
    ::kill(process, SIGKILL);
    ASSERT_EQ(::waitpid(process, nullptr, 0), process);
    const auto names = output({"images", "--format", "{{.Repository}}"});
    EXPECT_NE(names.find("kept"), std::string::npos);
    EXPECT_EQ(files_below("root/tmp"), 0u) << "the next command removes what was left";
  }
  output({"load", "-i", archive});
  output({"rmi", "app"});
  EXPECT_EQ(files_below("root/layers"), 1u) << "what the killed ones had published goes, too";
}

}  // namespace
}  // namespace vmm::engine
