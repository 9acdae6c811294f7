#include "src/engine/image/catalog.h"

#include <gtest/gtest.h>

#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

class CatalogTest : public testing::Test {
 protected:
  Image image(std::string_view name, std::int64_t created = 1) {
    return {Digest::of(name), Digest::of("manifest"),
            created,          "linux",
            "amd64",          {{Digest::of("layer"), Digest::of("blob"), 10}}};
  }
  Digest added(std::string_view name, std::vector<std::string> names, std::int64_t created = 1) {
    std::vector<Reference> references;
    for (const auto& text : names) references.push_back(parse_reference(text)->with_default_tag());
    const auto one = image(name, created);
    EXPECT_TRUE(catalog.add(one, references));
    return one.id;
  }
  std::string error_of(std::string_view name) {
    const auto found = catalog.find(name);
    return found ? "found" : found.error().message();
  }

  TestDirectory directory;
  Store store = *Store::open(directory.path());
  Catalog catalog{store};
};

TEST_F(CatalogTest, FindsAnImageByEachOfItsNames) {
  const auto digest = Digest::of("of the registry").text();
  const auto id = added("a", {"busybox:1", "me/app", "busybox@" + digest});
  added("b", {});
  for (const auto& name : {std::string("busybox:1"), std::string("docker.io/library/busybox:1"),
                           std::string("me/app"), "busybox@" + digest, id.text(), id.hex(),
                           id.short_hex(), "sha256:" + id.hex().substr(0, 5)}) {
    const auto found = catalog.find(name);
    ASSERT_TRUE(found) << name << ": " << found.error().message();
    EXPECT_EQ(found->id, id) << name;
  }
  EXPECT_EQ(catalog.find("me/app")->size(), 10u);
  EXPECT_EQ(catalog.tags(id)->size(), 2u);
  EXPECT_EQ(catalog.digests(id)->at(0).familiar(), "busybox@" + digest);
}

TEST_F(CatalogTest, SaysWhatItDoesNotFind) {
  EXPECT_EQ(error_of("busybox"), "No such image: busybox:latest");
  EXPECT_EQ(error_of("me/app:2"), "No such image: me/app:2");
  EXPECT_EQ(error_of("abcdef"), "No such image: abcdef:latest");
  EXPECT_EQ(error_of("UPPER"),
            "invalid reference format: repository name (library/UPPER) must be lowercase");
  EXPECT_EQ(error_of("%"), "invalid reference format");
  const auto none = Digest::of("none");
  EXPECT_EQ(error_of(none.hex()), "No such image: " + none.text());
  EXPECT_EQ(error_of(none.text()), "No such image: " + none.text());
}

TEST_F(CatalogTest, RefusesAnAmbiguousBeginning) {
  // "0" to "f" begin the ids of at most 16 images that differ in it.
  for (int i = 0; i < 17; ++i) added(std::to_string(i), {});
  int ambiguous = 0;
  for (const char digit : std::string_view("0123456789abcdef")) {
    if (error_of(std::string(1, digit)) != "found") ++ambiguous;
  }
  EXPECT_GT(ambiguous, 0);
}

TEST_F(CatalogTest, MovesATagToTheNextImage) {
  const auto first = added("a", {"app"});
  const auto second = added("b", {"app"});
  EXPECT_EQ(catalog.find("app")->id, second);
  EXPECT_TRUE(catalog.tags(first)->empty());
}

TEST_F(CatalogTest, ListsTheNewestFirst) {
  added("a", {}, 10);
  const auto newest = added("b", {}, 20);
  EXPECT_EQ(catalog.list()->at(0).id, newest);
  EXPECT_EQ(catalog.list()->size(), 2u);
}

TEST_F(CatalogTest, AddsAnImageTwice) {
  added("a", {"one"});
  const auto id = added("a", {"two"});
  EXPECT_EQ(catalog.tags(id)->size(), 2u);
  EXPECT_EQ(catalog.find("one")->layers.size(), 1u);
}

TEST_F(CatalogTest, RemovesAnImageWithItsNames) {
  const auto id = added("a", {"app"});
  ASSERT_TRUE(catalog.remove(id));
  EXPECT_EQ(error_of("app"), "No such image: app:latest");
  EXPECT_TRUE(catalog.list()->empty());
}

TEST_F(CatalogTest, KnowsTheSizeOfALayerThatIsThere) {
  added("a", {});
  EXPECT_FALSE(*catalog.layer_size(Digest::of("layer")));
  ASSERT_TRUE(
      store.content().publish(*store.content().temporary(), Content::layer, Digest::of("layer")));
  EXPECT_EQ(*catalog.layer_size(Digest::of("layer")), 10u);
}

}  // namespace
}  // namespace vmm::engine
