#include "devices/virtio/queue.h"

#include <gtest/gtest.h>

#include "tests/support/virtio_driver.h"

namespace vmm::virtio {
namespace {

using test::DriverQueue;
using test::GuestRam;
using test::readable;
using test::writable;

class QueueTest : public ::testing::Test {
 protected:
  Queue make(std::uint64_t features = 0) {
    return Queue::create(ram_.memory(), driver_.config(), features).value();
  }
  std::string pop_error(std::uint64_t features = 0) {
    auto queue = make(features);
    const auto result = queue.pop();
    return result ? "no error" : result.error().message();
  }
  GuestRam ram_;
  DriverQueue driver_{ram_, 8};
};

TEST_F(QueueTest, PassesBuffersThroughAndBack) {
  auto queue = make();
  const auto head = driver_.add({readable("abc"), readable("de"), writable(4)});
  auto chain = std::move(queue.pop().value());
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->readable_size(), 5u);
  EXPECT_EQ(chain->writable_size(), 4u);
  std::string text(5, ' ');
  EXPECT_EQ(copy_from_buffers(chain->readable(), 0, std::as_writable_bytes(std::span(text))), 5u);
  EXPECT_EQ(text, "abcde");
  EXPECT_EQ(copy_to_buffers(chain->writable(), 1, std::as_bytes(std::span("xyz", 3))), 3u);
  queue.push(std::move(*chain), 4);
  const auto used = driver_.poll_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->head, head);
  EXPECT_EQ(used->written, 4u);
  EXPECT_EQ(driver_.text(head, 2), std::string("\0xyz", 4));
  EXPECT_FALSE(queue.pop().value());
}

TEST_F(QueueTest, IndirectTables) {
  auto queue = make(kFeatureIndirectDescriptors);
  driver_.add_indirect({readable("abc"), writable(4), writable(5)});
  auto chain = std::move(queue.pop().value());
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->readable_size(), 3u);
  EXPECT_EQ(chain->writable().size(), 2u);
  queue.push(std::move(*chain), 0);
}

TEST_F(QueueTest, UnpopGivesTheChainAgain) {
  auto queue = make();
  driver_.add({readable("abc")});
  auto chain = std::move(*queue.pop().value());
  queue.unpop(std::move(chain));
  EXPECT_EQ(queue.in_flight(), 0u);
  EXPECT_TRUE(queue.pop().value());
}

TEST_F(QueueTest, StagedChainsAreSeenAtOnce) {
  auto queue = make();
  driver_.add({writable(4)});
  driver_.add({writable(4)});
  queue.stage(std::move(*queue.pop().value()), 4);
  queue.stage(std::move(*queue.pop().value()), 2);
  EXPECT_EQ(driver_.used_index(), 0);
  queue.publish();
  EXPECT_EQ(driver_.used_index(), 2);
  EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_F(QueueTest, ReadsFromWindowsAndNeverWritesThere) {
  const auto window = ram_.memory().add_window(2u << 20, {});
  ASSERT_TRUE(window);
  driver_.set_descriptor(0, {window->value, 512, 0, 0});
  driver_.set_descriptor(1, {window->value, 512, test::kDescWrite, 0});
  driver_.set_descriptor(2, {window->value, 16, test::kDescIndirect, 0});
  auto queue = make(kFeatureIndirectDescriptors);
  driver_.offer(0);
  auto chain = std::move(queue.pop().value());
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->readable_size(), 512u);
  EXPECT_EQ(*static_cast<const char*>(chain->readable()[0].iov_base), 0);
  queue.push(std::move(*chain), 0);
  driver_.offer(1);
  EXPECT_FALSE(queue.pop()) << "nobody writes there";
  queue.set_position(2, 1);
  driver_.offer(2);
  EXPECT_FALSE(queue.pop()) << "a table there is no table";
}

TEST_F(QueueTest, RefusesLoops) {
  driver_.set_descriptor(0, {0x1000, 1, test::kDescNext, 1});
  driver_.set_descriptor(1, {0x1000, 1, test::kDescNext, 0});
  driver_.offer(0);
  EXPECT_NE(pop_error().find("loop"), std::string::npos);
}

TEST_F(QueueTest, RefusesWrongDirection) {
  driver_.add({writable(4), readable("abc")});
  EXPECT_NE(pop_error().find("behind a writable"), std::string::npos);
}

TEST_F(QueueTest, RefusesWhatIsOutsideOfMemory) {
  driver_.set_descriptor(0, {0xffff'ffff'ffff'f000, 0x2000, 0, 0});
  driver_.offer(0);
  EXPECT_NE(pop_error().find("outside of the guest's memory"), std::string::npos);
}

TEST_F(QueueTest, RefusesBadIndexes) {
  driver_.offer(8);
  EXPECT_NE(pop_error().find("outside of a queue"), std::string::npos);
}

TEST_F(QueueTest, RefusesBadNext) {
  driver_.set_descriptor(0, {0x1000, 1, test::kDescNext, 8});
  driver_.offer(0);
  EXPECT_NE(pop_error().find("outside of a table"), std::string::npos);
}

TEST_F(QueueTest, RefusesAnAvailIndexTooFarAhead) {
  driver_.set_avail_index(9);
  EXPECT_NE(pop_error().find("ahead"), std::string::npos);
}

TEST_F(QueueTest, RefusesBadIndirection) {
  driver_.set_descriptor(0, {0x1000, 16, test::kDescIndirect, 0});
  driver_.offer(0);
  EXPECT_NE(pop_error(0).find("without the feature"), std::string::npos);
  driver_.set_descriptor(0, {0x1000, 15, test::kDescIndirect, 0});
  EXPECT_NE(pop_error(kFeatureIndirectDescriptors).find("15 bytes"), std::string::npos);
  driver_.set_descriptor(0, {0x1000, 16, test::kDescIndirect | test::kDescNext, 0});
  EXPECT_NE(pop_error(kFeatureIndirectDescriptors).find("next"), std::string::npos);
  // A table whose entry is indirect again.
  const auto table = ram_.allocate(16);
  const test::RawDescriptor nested{0x1000, 16, test::kDescIndirect, 0};
  std::memcpy(ram_.host(table, 16), &nested, 16);
  driver_.set_descriptor(0, {table.value, 16, test::kDescIndirect, 0});
  EXPECT_NE(pop_error(kFeatureIndirectDescriptors).find("inside of an indirect"),
            std::string::npos);
}

TEST_F(QueueTest, CreateChecksTheRings) {
  auto config = driver_.config();
  config.size = 3;
  EXPECT_FALSE(Queue::create(ram_.memory(), config, 0));
  config = driver_.config();
  config.descriptors.value += 8;
  EXPECT_FALSE(Queue::create(ram_.memory(), config, 0));
  config = driver_.config();
  config.used.value = ram_.memory().size() - 4;
  EXPECT_FALSE(Queue::create(ram_.memory(), config, 0));
}

TEST_F(QueueTest, NotifiesByFlagsWithoutEventIdx) {
  auto queue = make();
  EXPECT_FALSE(queue.take_notification()) << "nothing was pushed";
  driver_.add({readable("a")});
  queue.push(std::move(*queue.pop().value()), 0);
  EXPECT_TRUE(queue.take_notification());
  *ram_.host(driver_.config().avail, 2) = std::byte{1};  // VIRTQ_AVAIL_F_NO_INTERRUPT
  driver_.add({readable("a")});
  queue.push(std::move(*queue.pop().value()), 0);
  EXPECT_FALSE(queue.take_notification());
}

TEST_F(QueueTest, NotifiesByEventIndex) {
  auto queue = make(kFeatureEventIdx);
  // used_event = 1: an interrupt when the second one is used.
  *ram_.host(driver_.config().avail + 4 + 16, 2) = std::byte{1};
  driver_.add({readable("a")});
  queue.push(std::move(*queue.pop().value()), 0);
  EXPECT_FALSE(queue.take_notification());
  driver_.add({readable("b")});
  queue.push(std::move(*queue.pop().value()), 0);
  EXPECT_TRUE(queue.take_notification());
}

TEST_F(QueueTest, EnableKicksSeesWhatCameMeanwhile) {
  for (const std::uint64_t features : {std::uint64_t{0}, kFeatureEventIdx}) {
    GuestRam ram;
    DriverQueue driver(ram, 8);
    auto queue = Queue::create(ram.memory(), driver.config(), features).value();
    queue.disable_kicks();
    EXPECT_FALSE(queue.enable_kicks());
    driver.add({readable("a")});
    EXPECT_TRUE(queue.enable_kicks());
  }
}

TEST_F(QueueTest, IndexesWrap) {
  auto queue = make();
  queue.set_position(65534, 65534);
  driver_.set_avail_index(65534);
  for (int i = 0; i < 5; ++i) {
    driver_.add({readable("a")});
    auto chain = std::move(queue.pop().value());
    ASSERT_TRUE(chain) << i;
    queue.push(std::move(*chain), 0);
    EXPECT_TRUE(queue.take_notification());
  }
  EXPECT_EQ(queue.next_used(), 3);
}

}  // namespace
}  // namespace vmm::virtio
