#include "src/engine/runtime/container.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <regex>
#include <thread>

#include "src/engine/runtime/guest_request.h"
#include "src/engine/runtime/machine_files.h"
#include "src/engine/runtime/monitor.h"
#include "src/engine/runtime/names.h"
#include "src/engine/runtime/removal.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

class ContainersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = Store::open(folder_ / "store");
    ASSERT_TRUE(opened) << opened.error().message();
    store_ = std::make_unique<Store>(std::move(*opened));
    containers_ = std::make_unique<Containers>(*store_);
    image_.id = Digest::of("image");
    image_.manifest = Digest::of("manifest");
    image_.os = "linux";
    image_.architecture = "amd64";
    ASSERT_TRUE(Catalog(*store_).add(image_, {*parse_reference("busybox:latest")}));
  }

  Result<Container> make(const std::string& name, ContainerSpec spec = {}) {
    if (spec.command.empty()) spec.command = {"sh"};
    return containers_->create({name, image_.id, "busybox", std::move(spec)});
  }
  std::string directory(const Container& container) { return containers_->directory(container.id); }

  TestDirectory folder_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Containers> containers_;
  Image image_;
};

TEST_F(ContainersTest, IsFoundByNameAndByTheBeginningOfItsId) {
  ContainerSpec spec;
  spec.command = {"echo", std::string("\xff\x01", 2)};
  spec.environment = {"A=b"};
  const auto made = make("web", spec);
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_EQ(made->id.size(), 64u);
  EXPECT_EQ(made->spec.host_name, made->short_id());
  for (const auto& name : {std::string("web"), std::string("/web"), made->id, made->short_id()}) {
    const auto found = containers_->find(name);
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(found->id, made->id);
    EXPECT_EQ(found->spec.command, spec.command);
    EXPECT_EQ(found->state, ContainerState::created);
  }
  EXPECT_EQ(containers_->find("webb").error().message(), "No such container: webb");
}

TEST_F(ContainersTest, ANameIsForOne) {
  const auto first = make("web");
  ASSERT_TRUE(first);
  const auto second = make("web");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message(),
            "Conflict. The container name \"/web\" is already in use by container \"" + first->id +
                "\". You have to remove (or rename) that container to be able to reuse that name.");
  EXPECT_EQ(make("-x").error().message(),
            "Invalid container name (-x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
  const auto other = make("");
  ASSERT_TRUE(other);
  EXPECT_TRUE(std::regex_match(other->name, std::regex("[a-z]+_[a-z]+[0-9]?"))) << other->name;
  EXPECT_FALSE(containers_->rename(*other, "web"));
  ASSERT_TRUE(containers_->rename(*other, "new"));
  EXPECT_EQ(containers_->find("new")->id, other->id);
  // Nothing is left of the one that was refused.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(containers_->directory("")), {}), 2);
}

TEST_F(ContainersTest, ARunningOneWithoutASupervisorHasEnded) {
  const auto made = make("web");
  ASSERT_TRUE(made && containers_->set_running(made->id));
  {
    const auto lock = ContainerLock::take(directory(*made));
    ASSERT_TRUE(lock && *lock);
    EXPECT_EQ(containers_->find("web")->state, ContainerState::running);
    const auto again = ContainerLock::take(directory(*made));
    EXPECT_TRUE(again && !*again);
  }
  const auto lost = containers_->find("web");
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->state, ContainerState::exited);
  EXPECT_EQ(lost->exit_code, kLostExitCode);
  EXPECT_TRUE(remove_container(store_->root(), *lost, Force::no));
  EXPECT_FALSE(std::filesystem::exists(directory(*made)));
}

TEST_F(ContainersTest, AnEndThatHadNoRoomIsWrittenByTheNextCommand) {
  const auto made = make("web");
  ASSERT_TRUE(made && containers_->set_running(made->id));
  const auto pid = directory(*made) + "/pid";
  std::ofstream(pid) << "1234567\n";
  ASSERT_TRUE(keep_end(directory(*made), {137, true, "left out"}));
  const auto ended = containers_->find("web");
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->state, ContainerState::exited);
  EXPECT_EQ(ended->exit_code, 137);
  EXPECT_TRUE(ended->out_of_memory);
  EXPECT_EQ(containers_->find("web")->exit_code, 137);
  EXPECT_FALSE(std::filesystem::exists(pid)) << "it is of one end";
  // A killed supervisor leaves its number.
  for (const char* text : {"1234567\n", "end 1000 0\n", "end 1\n", "end\n"}) {
    ASSERT_TRUE(containers_->set_running(made->id));
    std::ofstream(pid) << text;
    EXPECT_EQ(containers_->find("web")->exit_code, kLostExitCode) << text;
  }
}

TEST_F(ContainersTest, OneThatWasToBeRemovedIsRemovedByTheNextCommand) {
  ContainerSpec spec;
  spec.auto_remove = true;
  const auto made = make("web", spec);
  ASSERT_TRUE(made && containers_->set_running(made->id));
  EXPECT_TRUE(containers_->list()->empty());
  EXPECT_FALSE(std::filesystem::exists(directory(*made)));
}

TEST_F(ContainersTest, DirectoriesOfKilledCommandsGo) {
  const auto made = make("web");
  const auto orphan = containers_->directory("feed");
  std::filesystem::create_directories(orphan);
  std::ofstream(orphan + "/spec") << "x";
  EXPECT_EQ(containers_->list()->size(), 1u);
  EXPECT_FALSE(std::filesystem::exists(orphan));
  // One that is being made is left alone.
  std::filesystem::create_directories(orphan);
  const auto lock = ContainerLock::take(orphan);
  EXPECT_EQ(containers_->list()->size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(orphan));
}

TEST_F(ContainersTest, WhoWaitsForOneIsNotInTheWayOfItsRemoval) {
  for (int i = 0; i < 50; ++i) {
    const auto made = make("web");
    ASSERT_TRUE(made);
    // As a second command that has found it.
    const std::jthread waiting([directory = directory(*made)](const std::stop_token& stop) {
      while (!stop.stop_requested() && ContainerLock::take(directory)) {
      }
    });
    const auto removed = containers_->remove(made->id);
    ASSERT_TRUE(removed) << removed.error().message();
    ASSERT_TRUE(std::filesystem::is_empty(containers_->directory("")));
  }
}

TEST_F(ContainersTest, OneThatIsBeingMadeIsNotTakenForALeftOne) {
  std::filesystem::create_directories(containers_->directory(""));
  const std::jthread looking([this](const std::stop_token& stop) {
    auto store = *Store::open(store_->root());
    while (!stop.stop_requested()) EXPECT_TRUE(Containers(store).remove_orphans());
  });
  for (int i = 0; i < 200; ++i) {
    const auto directory = containers_->directory("feed");
    const auto lock = make_locked_directory(directory);
    ASSERT_TRUE(lock) << lock.error().message();
    ASSERT_TRUE(std::filesystem::exists(directory));
    ASSERT_TRUE(remove_directory(directory));
  }
}

TEST_F(ContainersTest, ADamagedOneIsInNobodysWay) {
  const auto damaged = make("damaged"), gone = make("gone"), sound = make("sound");
  ASSERT_TRUE(damaged && gone && sound && containers_->set_running(damaged->id));
  std::ofstream(directory(*damaged) + "/spec") << "not a specification";
  std::filesystem::remove_all(directory(*gone));
  const auto listed = containers_->list();
  ASSERT_TRUE(listed) << listed.error().message();
  EXPECT_EQ(listed->size(), 2u);
  EXPECT_EQ(containers_->find("damaged")->exit_code, kLostExitCode);
  EXPECT_TRUE(remove_container(store_->root(), *containers_->find("damaged"), Force::no));
  EXPECT_TRUE(make("gone")) << "its name is free";
}

TEST_F(ContainersTest, AnImageStaysAsLongAsContainersHaveIt) {
  const auto made = make("web");
  const auto refused = remove_image(*store_, "busybox", Force::no);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(),
            "conflict: unable to remove repository reference \"busybox\" (must be forced) - image "
            "is being used by stopped container " +
                made->short_id());
  const auto forced = remove_image(*store_, "busybox", Force::yes);
  ASSERT_TRUE(forced) << forced.error().message();
  EXPECT_EQ(forced->untagged.size(), 1u);
  EXPECT_TRUE(forced->deleted.empty());
  EXPECT_TRUE(*Catalog(*store_).by_id(image_.id));
  ASSERT_TRUE(remove_container(store_->root(), *made, Force::no));
  EXPECT_TRUE(remove_image(*store_, image_.id.text(), Force::no));
  EXPECT_FALSE(*Catalog(*store_).by_id(image_.id));
}

TEST(ContainerSpecTest, TheImageIsBeneathWhatThePersonSays) {
  const auto image = parse_image_config(R"({"architecture": "amd64", "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": []},
    "config": {"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["PATH=/bin", "A=image"],
               "Labels": {"l": "image"}, "WorkingDir": "/w", "User": "web", "StopSignal": "SIGINT",
               "ExposedPorts": {"80/tcp": {}}}})");
  ASSERT_TRUE(image) << image.error().message();
  ContainerSpec spec;
  spec.environment = {"A=mine"};
  ASSERT_TRUE(apply_image(spec, *image, false));
  EXPECT_EQ(spec.arguments(), (std::vector<std::string>{"/e", "c"}));
  EXPECT_EQ(spec.environment, (std::vector<std::string>{"PATH=/bin", "A=mine"}));
  EXPECT_EQ(spec.labels, std::vector<std::string>{"l=image"});
  EXPECT_EQ(stop_signal_of(spec), SIGINT);
  EXPECT_EQ(spec.exposed, std::vector<std::string>{"80/tcp"});
  ContainerSpec other;
  other.entrypoint = {"/mine"};
  ASSERT_TRUE(apply_image(other, *image, true));
  EXPECT_EQ(other.arguments(), std::vector<std::string>{"/mine"});
  ContainerSpec none;
  EXPECT_EQ(apply_image(none, *image, true).error().message(), "no command specified");
}

TEST(ContainerSpecTest, CapabilitiesAndSignals) {
  ContainerSpec spec;
  EXPECT_EQ(*capabilities_of(spec), protocol::agent::kDefaultCapabilities);
  spec.capabilities_dropped = {"ALL"};
  spec.capabilities_added = {"cap_net_raw"};
  EXPECT_EQ(*capabilities_of(spec), std::uint64_t{1} << 13);
  spec.capabilities_added = {"fly"};
  EXPECT_EQ(capabilities_of(spec).error().message(),
            "invalid CapAdd: unknown capability: \"CAP_FLY\"");
  EXPECT_EQ(*parse_signal("SIGTERM"), SIGTERM);
  EXPECT_EQ(*parse_signal("kill"), SIGKILL);
  EXPECT_EQ(*parse_signal("9"), SIGKILL);
  EXPECT_EQ(*parse_signal("RTMIN+3"), 37);
  for (const char* bad : {"", "0", "65", "NOPE", "RTMIN+99", "SIG"}) {
    EXPECT_FALSE(parse_signal(bad)) << bad;
  }
}

TEST(MachineFilesTest, AWritableLayerIsACopyThatTakesLittle) {
  if (::access("/sbin/mke2fs", X_OK) < 0) GTEST_SKIP() << "there is no mke2fs";
  TestDirectory folder;
  for (const char* name : {"a", "b"}) {
    const auto made = make_writable_layer(folder.path(), folder / name);
    ASSERT_TRUE(made) << made.error().message();
    struct stat status{};
    ASSERT_EQ(::stat((folder / name).c_str(), &status), 0);
    EXPECT_EQ(status.st_size, 64ll << 30);
    EXPECT_LT(status.st_blocks * 512, 2 << 20);
  }
}

TEST(MachineFilesTest, AMissingKernelIsASentence) {
  TestDirectory folder;
  ::setenv("VMM_MACHINE", folder.path().c_str(), 1);
  const auto none = find_machine_files("");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message(),
            "no kernel and initramfs for containers: `ninja machine` makes them in a build "
            "directory, `guest-images/machine/build --out '" +
                folder.path() + "'` anywhere else");
  EXPECT_NE(find_machine_files("/nowhere/kernel").error().message().find("/nowhere/kernel"),
            std::string::npos);
  for (const char* file : {"kernel", "initramfs"}) std::ofstream(folder / file) << "x";
  std::ofstream(folder / "append") << "quiet\n";
  EXPECT_EQ(find_machine_files("")->append, "quiet");
  ::unsetenv("VMM_MACHINE");
}

TEST(MonitorTest, TheMachineFitsTheContainer) {
  ContainerSpec spec;
  spec.memory = 512u << 20;
  spec.cpu_limit = 500;
  EXPECT_EQ(machine_size(spec).memory_mib, 592u);
  EXPECT_EQ(machine_size(spec).cpus, 1u);
  Container container;
  container.spec = spec;
  container.spec.ports = {{"tcp", "", 8080, 80}, {"udp", "::1", 53, 53}};
  const auto words = boot_words(container, {"/k", "/i", ""});
  EXPECT_NE(std::ranges::find(words, "user,hostfwd=tcp:0.0.0.0:8080-:80,hostfwd=udp:[::1]:53-:53"),
            words.end());
  container.spec.network = "none";
  const auto alone = boot_words(container, {"/k", "/i", ""});
  EXPECT_EQ(std::ranges::find(alone, "--net"), alone.end());
}

TEST(MonitorTest, AnImageIsMappedWhereItCanBe) {
  Container container;
  auto& spec = container.spec;
  const std::array<ImageFile, 2> files = {ImageFile{"/a", 1u << 30}, ImageFile{"/b", 4096}};
  EXPECT_TRUE(maps_image(spec, std::span(files).first(1)));
  EXPECT_FALSE(maps_image(spec, files)) << "more than the slot has room for";
  const ImageFile odd{"/c", 512};
  EXPECT_FALSE(maps_image(spec, std::span(&odd, 1))) << "no whole pages";
  EXPECT_EQ(disk_descriptor(std::span(files).subspan(1)),
            "# Disk DescriptorFile\nversion=1\ncreateType=\"twoGbMaxExtentFlat\"\n"
            "RW 8 FLAT \"/b\" 0\n");
  const auto has = [](const std::vector<std::string>& words, std::string_view word) {
    return std::ranges::find(words, word) != words.end();
  };
  const MachineFiles machine{"/k", "/i", ""};
  EXPECT_TRUE(has(template_words(spec, machine), "size=1024M"));
  EXPECT_TRUE(has(restore_words(container, "/t"), "blk0=image.vmdk,format=vmdk"));
  EXPECT_EQ(mount_request(container).image, "/dev/vda");
  spec.mapped_image = true;
  EXPECT_TRUE(has(boot_words(container, machine), "image.vmdk,format=vmdk,size=1024M"));
  EXPECT_TRUE(has(restore_words(container, "/t"), "image.vmdk,format=vmdk"));
  EXPECT_TRUE(has(boot_words(container, machine), "size=8T,ro")) << "disks keep their places";
  EXPECT_EQ(mount_request(container).image, "/dev/pmem0");
  spec.kernel = "/own";
  EXPECT_FALSE(maps_image(spec, std::span(files).subspan(1)));
  EXPECT_FALSE(has(template_words(spec, machine), "size=1024M"));
}

TEST(GuestRequestTest, WhyAProgramDidNotStart) {
  using protocol::agent::Failed;
  const auto missing = explain({Failed::Reason::not_found, ENOENT, ""}, "x");
  EXPECT_EQ(missing.code, 127);
  EXPECT_EQ(missing.text,
            "unable to start container process: exec: \"x\": executable file not found in $PATH");
  EXPECT_EQ(explain({Failed::Reason::not_found, ENOENT, ""}, "/x").text,
            "unable to start container process: exec: \"/x\": stat /x: no such file or directory");
  const auto denied = explain({Failed::Reason::not_executable, EACCES, ""}, "/etc");
  EXPECT_EQ(denied.code, 126);
  EXPECT_EQ(denied.text, "unable to start container process: exec: \"/etc\": permission denied");
  EXPECT_EQ(explain({Failed::Reason::setup, 0, "no"}, "x").code, 125);
}

}  // namespace
}  // namespace vmm::engine
