#include "src/engine/runtime/machine_template.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "src/base/unique_fd.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;

class MachineTemplateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto* name : {"kernel", "initramfs"}) write(name, name);
    write("monitor", "#!/bin/sh\necho x >>" + path("runs") + "\necho vmm: no KVM >&2\nexit 1\n");
    fs::permissions(path("monitor"), fs::perms::owner_all);
    fs::create_directories(folder());
  }
  std::string path(const std::string& name) const { return directory_ / name; }
  std::string folder() const { return path("machine/templates"); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
  // A directory that looks like one, used so many seconds ago.
  void pretend(const std::string& name, long seconds) const {
    fs::create_directories(folder() + "/" + name);
    // Another one of the name has another size: the time of a file has ticks.
    write("machine/templates/" + name + "/manifest.json", std::string(++pretended_, ' '));
    fs::last_write_time(folder() + "/" + name,
                        fs::file_time_type::clock::now() - std::chrono::seconds(seconds));
  }
  MachineFiles files() const { return {path("kernel"), path("initramfs"), ""}; }
  TemplateRecipe recipe(const ContainerSpec& spec = {}) const {
    const auto made = template_recipe(spec, files(), path("monitor"));
    EXPECT_TRUE(made) << made.error().message();
    return *made;
  }

  TestDirectory directory_;
  mutable std::size_t pretended_ = 0;
};

TEST_F(MachineTemplateTest, ItsNameSaysWhatMachineItIs) {
  const auto first = recipe();
  EXPECT_EQ(recipe().name, first.name);
  ContainerSpec other;
  other.command = {"sleep"};
  other.host_name = "box";
  other.ports = {{"tcp", "", 8080, 80}};
  EXPECT_EQ(recipe(other).name, first.name) << "what the container is does not matter";
  ContainerSpec large;
  large.memory = 512u << 20;
  EXPECT_NE(recipe(large).name, first.name);
  ContainerSpec alone;
  alone.network = "none";
  EXPECT_NE(recipe(alone).name, first.name);
  write("kernel", "a later one");
  EXPECT_NE(recipe().name, first.name);
  const auto later = recipe().name;
  fs::create_symlink(path("kernel"), path("link"));
  EXPECT_EQ(template_recipe({}, {path("link"), path("initramfs"), ""}, path("monitor"))->name,
            later)
      << "wherever the files are";
  const auto on = [&](const std::string& processor) {
    return template_recipe({}, files(), path("monitor"), processor)->name;
  };
  EXPECT_EQ(on(host_processor()), later);
  EXPECT_NE(on("flags\t: sse2 avx2\n"), on("flags\t: sse2\n")) << "a home may be shared by hosts";
  fs::remove(path("initramfs"));
  const auto missing = template_recipe({}, files(), path("monitor"));
  ASSERT_FALSE(missing);
  EXPECT_TRUE(missing.error().message().contains("initramfs"));
}

TEST(HostProcessor, IsWhatSnapshotsAskFor) {
  EXPECT_EQ(processor_in(
                "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 1\ncpu MHz\t\t: 2449.9\n"
                "flags\t\t: fpu sse2\nbugs\t\t: fxsave_leak\n\nprocessor\t: 1\nflags\t\t: other\n"),
            "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2\n");
  EXPECT_EQ(processor_in("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n"
                         "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
                         "CPU part\t: 0xd08\nCPU revision\t: 3\n\n"),
            "Features\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: "
            "0x0\nCPU part\t: 0xd08\n");
  EXPECT_FALSE(host_processor().empty());
}

TEST_F(MachineTemplateTest, AFailureIsNotTriedAgainAtOnce) {
  const MachineTemplates templates(directory_.path());
  const auto name = recipe().name;
  const auto made = templates.make(recipe());
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message(), "no KVM");
  EXPECT_EQ(read_text_file(folder() + "/" + name + ".lock").value_or(""), "no KVM\n");
  EXPECT_FALSE(fs::exists(folder() + "/" + name + ".work"));
  EXPECT_FALSE(templates.find(name));
  EXPECT_TRUE(templates.make(recipe()));
  EXPECT_EQ(read_text_file(path("runs")).value_or(""), "x\n") << "it was tried again";
  // A day later it is.
  fs::last_write_time(folder() + "/" + name + ".lock",
                      fs::file_time_type::clock::now() - std::chrono::hours(24));
  EXPECT_FALSE(templates.make(recipe()));
  EXPECT_EQ(read_text_file(path("runs")).value_or(""), "x\nx\n");
}

TEST_F(MachineTemplateTest, OneMakerIsEnough) {
  const auto name = recipe().name;
  const UniqueFd lock(
      ::open((folder() + "/" + name + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  fs::create_directories(folder() + "/" + name + ".work");
  const MachineTemplates templates(directory_.path());
  EXPECT_TRUE(templates.make(recipe()));
  EXPECT_FALSE(fs::exists(path("runs")));
  (void)templates.prune(0);
  EXPECT_TRUE(fs::exists(folder() + "/" + name + ".work")) << "of a maker that lives";
}

TEST_F(MachineTemplateTest, ThoseThatAreUsedStay) {
  const MachineTemplates templates(directory_.path());
  pretend("a", 30);
  pretend("b", 20);
  pretend("c", 10);
  EXPECT_EQ(templates.usage().count, 3u);
  EXPECT_TRUE(templates.find("a")) << "it is the last used one now";
  EXPECT_GT(templates.prune(2), 0u);
  EXPECT_TRUE(templates.find("a"));
  EXPECT_FALSE(templates.find("b"));
  EXPECT_TRUE(templates.find("c"));
  EXPECT_FALSE(templates.note_failure("c", *templates.find("c"), "damaged"));
  EXPECT_FALSE(templates.find("c"));
}

TEST_F(MachineTemplateTest, ThoseThatDoNotWorkAreGivenUpForADay) {
  const MachineTemplates templates(directory_.path());
  const auto name = recipe().name;
  const auto failed = folder() + "/" + name + ".failed";
  const auto fail_once = [&](const std::string& why) {
    pretend(name, 0);
    return templates.note_failure(name, *templates.find(name), why);
  };
  // One may be damaged: another is made. So it is when the one before worked.
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(fail_once("damaged"));
    EXPECT_FALSE(fs::exists(folder() + "/" + name));
    pretend(name, 0);
    ASSERT_TRUE(templates.find(name));
    templates.note_success(name);
    EXPECT_FALSE(fs::exists(failed));
  }
  // Of starts at once from one, each fails: that is one failure, and what was made since stays.
  const auto one = templates.find(name);
  ASSERT_TRUE(one);
  EXPECT_FALSE(templates.note_failure(name, *one, "damaged"));
  pretend(name, 0);
  EXPECT_FALSE(templates.note_failure(name, *one, "damaged"));
  EXPECT_TRUE(templates.warnings().empty());
  const auto two = templates.find(name);
  ASSERT_TRUE(two);
  EXPECT_TRUE(templates.note_failure(name, *two, "lacks\nAVX2"));
  EXPECT_FALSE(templates.note_failure(name, *two, "lacks AVX2")) << "told once";
  EXPECT_EQ(templates.warnings(), std::vector{given_up_warning("lacks AVX2")});
  // None is made or used, until a day has passed; then one failure is enough.
  EXPECT_TRUE(templates.make(recipe()));
  EXPECT_FALSE(fs::exists(path("runs")));
  pretend(name, 0);
  EXPECT_FALSE(templates.find(name));
  const auto yesterday = fs::file_time_type::clock::now() - std::chrono::hours(25);
  fs::last_write_time(failed, yesterday);
  EXPECT_TRUE(templates.warnings().empty());
  EXPECT_TRUE(fail_once("still"));
  EXPECT_EQ(templates.warnings(), std::vector{given_up_warning("still")});
  (void)templates.prune(8);
  EXPECT_TRUE(fs::exists(failed));
  (void)templates.prune(0);
  EXPECT_TRUE(fs::is_empty(folder())) << "a person has asked for another try";
}

TEST_F(MachineTemplateTest, WhatKilledMakersLeftGoes) {
  const MachineTemplates templates(directory_.path());
  for (const auto* end : {".work", ".partial", ".1.removed"}) {
    fs::create_directories(folder() + "/d" + end);
  }
  write("machine/templates/d.lock", "");
  (void)templates.prune(8);
  EXPECT_TRUE(fs::is_empty(folder()));
}

}  // namespace
}  // namespace vmm::engine
