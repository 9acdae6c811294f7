#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "src/cli/config/disk_option.h"
#include "src/cli/config/machine_options.h"
#include "src/cli/config/option_text.h"

namespace vmm::config {
namespace {

std::string error_of(const MachineOptions& options) {
  const auto config = to_config(options);
  return config ? "no error" : config.error().message();
}

MachineOptions with_kernel() {
  MachineOptions options;
  options.kernel = "vmlinux";
  return options;
}

TEST(DiskOption, TakesItsKeys) {
  const auto disk =
      parse_disk_option("a,,b=c.img,ro,serial=X1,bps=10M,iops=100,queues=2,io=threads");
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_EQ(disk->path, "a,b=c.img");
  EXPECT_TRUE(disk->read_only);
  EXPECT_EQ(disk->serial, "X1");
  EXPECT_EQ(disk->limits.bytes_per_second, 10u << 20);
  EXPECT_EQ(disk->limits.operations_per_second, 100u);
  EXPECT_EQ(disk->queues, 2);
  EXPECT_EQ(disk->io, disk::IoEngine::threads);
  EXPECT_EQ(disk->format, disk::ImageFormat::automatic);
  EXPECT_EQ(parse_disk_option("path=x,ro=off")->path, "x");
  EXPECT_EQ(parse_disk_option("x,format=qcow2")->format, disk::ImageFormat::qcow2);
  EXPECT_EQ(parse_disk_option("x,format=raw")->format, disk::ImageFormat::raw);
}

TEST(DiskOption, RefusesWithTheWord) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "path is missing"},
      {"x,seral=1", "did you mean 'serial'"},
      {"x,ro=maybe", "'maybe'"},
      {"x,queues=0", "'0'"},
      {"x,queue-size=100", "power"},
      {"x,serial", "takes a value"},
      {"x,bps=2Q", "'2Q'"},
      {"x,serial=123456789012345678901", "longer than 20"},
      {"x,io=fast", "'fast'"},
      {"x,format=qcow", "did you mean 'qcow2'"},
      {"x,formt=raw", "did you mean 'format'"},
      {"x,iops=0", "no limit"}};
  for (const auto& [text, part] : cases) {
    const auto disk = parse_disk_option(text);
    ASSERT_FALSE(disk) << text;
    EXPECT_NE(disk.error().message().find(part), std::string::npos) << disk.error().message();
  }
}

TEST(OptionText, ObjectsAndTextsSayTheSame) {
  for (const auto& [text, positional] :
       {std::pair{"root.img,ro,serial=X", "path"}, std::pair{"a,,b,queues=2", "path"},
        std::pair{"user,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4", ""}, std::pair{"tap=t0,mtu=9000", ""},
        std::pair{"a=b.img,ro", "path"}, std::pair{"=x,ro", "path"}, std::pair{"path", "path"},
        std::pair{"a,path=b,path=c", "path"}, std::pair{",mtu=9000", ""}, std::pair{"=5", ""},
        std::pair{"", ""}}) {
    const auto object = to_object(text, positional);
    const auto back = to_text(object, positional, "test");
    ASSERT_TRUE(back);
    EXPECT_EQ(to_object(*back, positional), object) << text << " -> " << *back;
  }
  const auto object = to_object("root.img,ro,queues=2", "path");
  EXPECT_EQ(object.dump(), R"({"path":"root.img","queues":2,"ro":true})");
  EXPECT_EQ(to_object("a=b.img,ro", "path").dump(), R"({"path":"a=b.img","ro":true})");
}

TEST(OptionText, AnObjectWithoutItsPathIsRefused) {
  const auto text = to_text(nlohmann::json{{"ro", true}}, "path", "disk");
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().message(), "disk: 'path' is missing");
}

TEST(MachineOptions, FileAndOptionsGiveTheSameConfiguration) {
  MachineOptions options = with_kernel();
  options.memory = "2G";
  options.cpus = "2";
  options.disks = {"root.img,ro"};
  options.nets = {"user,hostfwd=tcp::8080-:80"};
  options.balloon = true;
  options.rng = true;
  const auto read = parse_config_text(to_json_text(options), "test");
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(to_json_text(*read), to_json_text(options));
  const auto config = to_config(*read);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->memory, 2ull << 30);
  EXPECT_EQ(config->cpus, 2u);
  ASSERT_EQ(config->disks.size(), 1u);
  EXPECT_TRUE(config->disks[0].read_only);
  ASSERT_EQ(config->nets.size(), 1u);
  EXPECT_EQ(config->nets[0].user.forwards.at(0).host_port, 8080);
  EXPECT_TRUE(config->balloon);
  EXPECT_TRUE(config->rng);
  EXPECT_FALSE(to_config(with_kernel())->rng);
}

TEST(MachineOptions, OptionsOverrideTheFileAndDevicesAddUp) {
  auto file = parse_config_text(R"({"kernel":"a","mem":"1G","disk":"x"})", "test").value();
  MachineOptions words;
  words.memory = "2G";
  words.disks = {"y"};
  file.override_with(words);
  EXPECT_EQ(*file.memory, "2G");
  EXPECT_EQ(*file.kernel, "a");
  EXPECT_EQ(file.disks, (std::vector<std::string>{"x", "y"}));
}

TEST(MachineOptions, RefusesWithTheValue) {
  EXPECT_NE(error_of({}).find("--kernel"), std::string::npos);
  const auto check = [](auto member, const char* value, const char* part) {
    MachineOptions options = with_kernel();
    options.*member = value;
    const auto error = error_of(options);
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  check(&MachineOptions::memory, "0", "'0' is too little");
  check(&MachineOptions::memory, "2Q", "'2Q' is not a size");
  check(&MachineOptions::memory, "100000T", "more than this host's memory");
  check(&MachineOptions::memory, "134217729", "multiple of 1M");
  check(&MachineOptions::cpus, "0", "'0'");
  check(&MachineOptions::cpus, "many", "'many'");
  check(&MachineOptions::serial, "tty", "'tty'");
  check(&MachineOptions::vsock, "", "path");
}

TEST(MachineOptions, RefusesBadFiles) {
  const std::pair<const char*, const char*> cases[] = {
      {"{", "no JSON"},
      {"[]", "JSON object"},
      {R"({"kernl":"x"})", "did you mean 'kernel'"},
      {R"({"mem":[]})", "'mem'"},
      {R"({"balloon":"yes"})", "'balloon' is true or false"},
      {R"({"disk":[7]})", "object or a text"},
      {R"({"disk":{"path":{}}})", "path"}};
  for (const auto& [text, part] : cases) {
    const auto options = parse_config_text(text, "test.json");
    ASSERT_FALSE(options) << text;
    EXPECT_NE(options.error().message().find(part), std::string::npos) << options.error().message();
  }
}

}  // namespace
}  // namespace vmm::config
