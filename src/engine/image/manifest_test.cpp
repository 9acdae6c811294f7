#include "src/engine/image/manifest.h"

#include <gtest/gtest.h>

namespace vmm::engine {
namespace {

const std::string kDigest = Digest::of("x").text();

std::string descriptor(std::string_view more = "") {
  return fmt::format(R"({{"mediaType":"m","digest":"{}","size":7{}}})", kDigest, more);
}

TEST(Manifest, IsReadAsItWasWritten) {
  Manifest manifest;
  manifest.config = {"application/vnd.oci.image.config.v1+json", Digest::of("config"), 6, {}, {}};
  manifest.layers = {{"application/vnd.oci.image.layer.v1.tar", Digest::of("layer"), 5, {}, {}}};
  const auto text = write_manifest(manifest);
  EXPECT_EQ(*kind_of_document(text), DocumentKind::manifest);
  const auto read = parse_manifest(text);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->config.digest, Digest::of("config"));
  ASSERT_EQ(read->layers.size(), 1u);
  EXPECT_EQ(read->layers[0].size, 5u);
}

TEST(Manifest, RefusesWhatIsNone) {
  const auto with = [](std::string_view config, std::string_view layers) {
    return fmt::format(R"({{"config":{},"layers":{}}})", config, layers);
  };
  EXPECT_TRUE(parse_manifest(with(descriptor(), "[]")));
  for (const auto& text : {std::string(), std::string("[]"), std::string("{}"), with("1", "[]"),
                           with(descriptor(), "{}"), with(descriptor(), "[1]"),
                           with(R"({"digest":"sha256:0","size":1})", "[]"),
                           with(fmt::format(R"({{"digest":"{}","size":-1}})", kDigest), "[]"),
                           with(fmt::format(R"({{"digest":"{}"}})", kDigest), "[]")}) {
    EXPECT_FALSE(parse_manifest(text)) << text;
  }
  std::string many = "[";
  for (std::size_t i = 0; i <= kMaxLayers; ++i) many += descriptor() + ",";
  many.back() = ']';
  EXPECT_FALSE(parse_manifest(with(descriptor(), many)));
}

TEST(Manifest, IsToldFromAnIndex) {
  EXPECT_EQ(*kind_of_document(R"({"manifests":[]})"), DocumentKind::index);
  EXPECT_EQ(*kind_of_document(R"({"config":{}})"), DocumentKind::manifest);
  EXPECT_FALSE(kind_of_document(R"({"mediaType":"text/html"})"));
  EXPECT_FALSE(kind_of_document(R"({"schemaVersion":1,"fsLayers":[]})"));
}

TEST(Index, HasPlatformsAndNames) {
  const auto index = parse_index(
      fmt::format(R"({{"manifests":[{}]}})",
                  descriptor(R"(,"platform":{"os":"linux","architecture":"arm64","variant":"v8"},
                     "annotations":{"org.opencontainers.image.ref.name":"a:b"})")));
  ASSERT_TRUE(index) << index.error().message();
  EXPECT_EQ(index->manifests[0].platform.text(), "linux/arm64/v8");
  EXPECT_EQ(index->manifests[0].annotations.at("org.opencontainers.image.ref.name"), "a:b");
}

TEST(Platform, IsParsedAndCompared) {
  EXPECT_EQ(Platform::parse("linux/x86_64")->text(), "linux/amd64");
  EXPECT_EQ(Platform::parse("arm64")->text(), "linux/arm64");
  EXPECT_FALSE(Platform::parse("linux"));
  EXPECT_FALSE(Platform::parse("a/b/c/d"));
  EXPECT_TRUE(Platform::parse("linux/arm64")->accepts(*Platform::parse("linux/arm64/v8")));
  EXPECT_FALSE(Platform::parse("linux/arm/v6")->accepts(*Platform::parse("linux/arm/v7")));
  EXPECT_FALSE(Platform::parse("linux/amd64")->accepts(*Platform::parse("windows/amd64")));
}

TEST(ImageConfig, HasLayersAndHistory) {
  const auto config = parse_image_config(fmt::format(
      R"({{"os":"linux","architecture":"amd64","created":"2024-05-06T07:08:09.123456789Z",
          "rootfs":{{"type":"layers","diff_ids":["{}"]}},
          "history":[{{"created_by":"COPY"}},{{"created_by":"ENV","empty_layer":true}}]}})",
      kDigest));
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(format_time(config->created), "2024-05-06T07:08:09Z");
  EXPECT_EQ(config->diff_ids.size(), 1u);
  EXPECT_TRUE(config->history[1].empty_layer);
}

TEST(ImageConfig, RefusesWhatIsNone) {
  for (const auto* text :
       {"", "1", "[]", R"({"rootfs":{"diff_ids":1}})", R"({"rootfs":{"diff_ids":[1]}})",
        R"({"rootfs":{"diff_ids":["x"]}})", R"({"created":"now"})", R"({"history":[1]})"}) {
    EXPECT_FALSE(parse_image_config(text)) << text;
  }
}

TEST(Time, IsParsed) {
  EXPECT_EQ(*parse_time("1970-01-01T00:00:01Z"), 1);
  EXPECT_EQ(*parse_time("1970-01-01T01:00:01.5+01:00"), 1);
  EXPECT_EQ(*parse_time("1969-12-31T23:00:01-01:00"), 1);
  EXPECT_EQ(format_time(0), "1970-01-01T00:00:00Z");
  EXPECT_FALSE(parse_time("yesterday"));
  EXPECT_FALSE(parse_time("1970-01-01T00:00:00"));
  EXPECT_FALSE(parse_time("1970-01-01T00:00:00+9"));
}

}  // namespace
}  // namespace vmm::engine
