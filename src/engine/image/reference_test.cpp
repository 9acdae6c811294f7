#include "src/engine/image/reference.h"

#include <gtest/gtest.h>

namespace vmm::engine {
namespace {

TEST(Reference, IsCompleted) {
  const auto check = [](std::string_view text, std::string_view repository, std::string_view tag,
                        std::string_view familiar) {
    const auto reference = parse_reference(text);
    ASSERT_TRUE(reference) << text << ": " << reference.error().message();
    EXPECT_EQ(reference->repository(), repository);
    EXPECT_EQ(reference->with_default_tag().tag, tag);
    EXPECT_EQ(reference->with_default_tag().familiar(), familiar);
  };
  check("busybox", "docker.io/library/busybox", "latest", "busybox:latest");
  check("busybox:1.36", "docker.io/library/busybox", "1.36", "busybox:1.36");
  check("me/app", "docker.io/me/app", "latest", "me/app:latest");
  check("library/app", "docker.io/library/app", "latest", "app:latest");
  check("docker.io/busybox", "docker.io/library/busybox", "latest", "busybox:latest");
  check("index.docker.io/a/b", "docker.io/a/b", "latest", "a/b:latest");
  check("localhost/app", "localhost/app", "latest", "localhost/app:latest");
  check("localhost:5000/app:2", "localhost:5000/app", "2", "localhost:5000/app:2");
  check("[::1]:5000/app", "[::1]:5000/app", "latest", "[::1]:5000/app:latest");
  check("ghcr.io/a/b/c_d__e.f---g", "ghcr.io/a/b/c_d__e.f---g", "latest",
        "ghcr.io/a/b/c_d__e.f---g:latest");
  const auto digest = Digest::of("x").text();
  check("busybox@" + digest, "docker.io/library/busybox", "", "busybox@" + digest);
  check("busybox:1@" + digest, "docker.io/library/busybox", "1", "busybox:1@" + digest);
}

TEST(Reference, RefusesWhatIsNone) {
  for (const auto* text :
       {"",     ":",    "a:",     "a:b:c",   "-a",     "a-",      "a//b",       "/a",
        "a/",   "a..b", "a___b",  "a._b",    "a b",    "a\n",     "a@sha256:0", "a@",
        "a:.b", "../a", "a/../b", "a.b:x/c", "[::1/a", "a_b.c/d", "h..i/d"}) {
    EXPECT_FALSE(parse_reference(text)) << text;
  }
  const auto upper = parse_reference("Busybox");
  ASSERT_FALSE(upper);
  EXPECT_EQ(upper.error().message(),
            "invalid reference format: repository name (library/Busybox) must be lowercase");
  EXPECT_FALSE(parse_reference(std::string(64, 'a')));
  EXPECT_TRUE(parse_reference(std::string(63, 'a')));
  EXPECT_FALSE(parse_reference("a:" + std::string(129, 'b')));
  EXPECT_FALSE(parse_reference(std::string(250, 'a') + "/b"));
}

}  // namespace
}  // namespace vmm::engine
