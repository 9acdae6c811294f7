#include "src/protocol/control.h"

#include <gtest/gtest.h>

#include "src/protocol/control_v1.h"

namespace vmm::protocol {
namespace {

// The error of a request, or "".
std::string why_not(std::string_view line) {
  const auto request = decode_request(line);
  return request.command ? "" : request.command.error().message();
}

TEST(Control, RoundTrips) {
  const auto request = decode_request(
      encode_request(7, Snapshot{.directory = "/5\"1\n", .parent = "/p", .live = true}));
  EXPECT_EQ(request.version, 2u);
  EXPECT_EQ(request.id, 7u);
  ASSERT_TRUE(request.command) << request.command.error().message();
  const auto& snapshot = std::get<Snapshot>(*request.command);
  EXPECT_EQ(snapshot.directory, "/5\"1\n");
  EXPECT_EQ(snapshot.parent, "/p");
  EXPECT_TRUE(snapshot.live);
  EXPECT_FALSE(snapshot.stop);

  const auto reply = decode_reply(encode(Reply{9, true, R"({"a":[1,2]})", ""}));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->id, 9u);
  EXPECT_TRUE(reply->ok);
  EXPECT_EQ(reply->result, R"({"a":[1,2]})");
  EXPECT_EQ(decode_reply(encode(Reply{{}, false, "", "no"}))->error, "no");
}

TEST(Control, EachCommandIsReadAsItself) {
  const auto check = [](const Command& command) {
    const auto request = decode_request(encode_request(1, command));
    ASSERT_TRUE(request.command) << name_of(command) << request.command.error().message();
    EXPECT_EQ(request.command->index(), command.index()) << name_of(command);
  };
  for (const auto& command : std::vector<Command>{
           Version{}, Status{}, Metrics{}, Pause{}, Resume{}, PowerButton{}, Stop{}, Balloon{"1"},
           Snapshot{.directory = "/a"}, WorkingSet{}, Detach{"blk1"}, Resize{"blk1", "8G"}, Jobs{},
           Cancel{3}, Events{}, Wait{}, Wait{4}}) {
    check(command);
  }
  check(Attach{{"blk1", {"{}"}}});
  check(Replace{{"blk1", {R"("x")"}}});
  check(Publish{{"net0", {"tcp::80-:80"}}});
  check(Unpublish{{"net0", {"tcp::80", "udp::53"}}});
}

TEST(Control, EventsAndResultsRoundTrip) {
  const auto ended = decode_event(encode(Event(Ended{.code = 5, .reason = "it was ended"})));
  ASSERT_TRUE(ended) << ended.error().message();
  EXPECT_EQ(std::get<Ended>(*ended).code, 5);
  EXPECT_EQ(std::get<Ended>(*ended).reason, "it was ended");
  const auto progress = decode_event(encode(Event(JobProgressed{{.job = 1, .kind = "snapshot"}})));
  ASSERT_TRUE(progress) << progress.error().message();
  EXPECT_EQ(std::get<JobProgressed>(*progress).kind, "snapshot");
  const auto failed = decode_event(encode(Event(JobFinished{.job = 2, .ok = false, .error = "e"})));
  ASSERT_TRUE(failed);
  EXPECT_EQ(std::get<JobFinished>(*failed).error, "e");
  EXPECT_FALSE(decode_event(R"({"event":"of a newer version"})"));
  EXPECT_TRUE(is_event(R"({"event":"of a newer version"})"));
  EXPECT_FALSE(is_event(R"({"ok":true})"));

  const auto jobs = from_json<JobList>(to_json(JobList{{{.job = 4, .done = 5, .total = 6}}}));
  ASSERT_TRUE(jobs) << jobs.error().message();
  ASSERT_EQ(jobs->jobs.size(), 1u);
  EXPECT_EQ(jobs->jobs[0].total, 6u);
  EXPECT_EQ(from_json<VersionResult>(to_json(VersionResult{{1, 2}, "1"}))->versions.size(), 2u);
  EXPECT_FALSE(from_json<JobList>(R"({"jobs":[7]})"));
}

TEST(Control, OneLineWhateverIsInIt) {
  for (const auto& line : {encode(RequestV1{"x\ny", "\xff\xfe", {}}),
                           encode_request(1, Snapshot{.directory = "\xff\n\xfe"}),
                           encode(Event(Panic{"a\nb\xff"})), encode(Reply{1, false, "", "a\nb"})}) {
    EXPECT_EQ(line.find('\n'), line.size() - 1);
  }
}

TEST(Control, AnAttachmentIsAnObjectOrAText) {
  const auto attachment = [](const char* text) {
    const auto request = decode_request(fmt::format(
        R"({{"version":2,"id":1,"command":"attach","arguments":{{"component":"blk1",{}}}}})",
        text));
    return request.command ? std::get<Attach>(*request.command).attachment.text
                           : request.command.error().message();
  };
  EXPECT_EQ(attachment(R"("attachment":{"path":"/a","ro":true})"), R"({"path":"/a","ro":true})");
  EXPECT_EQ(attachment(R"("attachment":"/a,ro")"), R"("/a,ro")");
  EXPECT_EQ(attachment(R"("attachment":7)"),
            "attach: invalid attachment 7: expected an object or a text");
  EXPECT_EQ(attachment(R"("attachment":null)"),
            "attach: invalid attachment null: expected an object or a text");
  EXPECT_EQ(attachment(R"("more":1)"), "attach: unknown argument 'more'");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"attach","arguments":{"component":"a"}})"),
            "attach takes an attachment");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"detach"})"), "detach takes a component");
}

TEST(Control, PortsAreAListOfTexts) {
  const auto request = decode_request(
      R"({"version":2,"id":1,"command":"publish","arguments":{"component":"net0","ports":["a","b"]}})");
  ASSERT_TRUE(request.command) << request.command.error().message();
  EXPECT_EQ(std::get<Publish>(*request.command).ports, (std::vector<std::string>{"a", "b"}));
  const auto refused = [](const char* ports) {
    return why_not(fmt::format(
        R"({{"version":2,"id":1,"command":"unpublish","arguments":{{"component":"net0"{}}}}})",
        ports));
  };
  EXPECT_EQ(refused(""), "unpublish takes ports");
  EXPECT_EQ(refused(R"(,"ports":[])"), "unpublish takes ports");
  EXPECT_EQ(refused(R"(,"ports":"tcp::80")"),
            R"(unpublish: invalid ports "tcp::80": expected a list)");
  EXPECT_EQ(refused(R"(,"ports":[80])"), "unpublish: invalid ports 80: expected a text");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"publish","arguments":{"ports":["a"]}})"),
            "publish takes a component");
}

TEST(Control, SaysWhatIsWrongWithARequestByItsId) {
  const auto refused = decode_request(R"({"version":2,"id":3,"command":"pauze"})");
  EXPECT_EQ(refused.id, 3u);
  EXPECT_EQ(refused.version, 2u);
  EXPECT_EQ(refused.command.error().message(), "unknown command 'pauze' (did you mean 'pause'?)");
  EXPECT_EQ(why_not(R"({"version":2,"command":"status"})"),
            "the request has no id, or one that is not a whole number from 0");
  EXPECT_EQ(why_not(R"({"version":2,"id":1})"), "the request has no command");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"balloon","arguments":{"size":7}})"),
            "balloon: invalid size 7: expected a text");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"cancel","arguments":{"job":-1}})"),
            "cancel: invalid job -1: expected a whole number from 0");
  EXPECT_EQ(
      why_not(
          R"({"version":2,"id":1,"command":"snapshot","arguments":{"directory":"/a","liv":1}})"),
      "snapshot: unknown argument 'liv' (did you mean 'live'?)");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"snapshot","arguments":{"live":"yes"}})"),
            "snapshot: invalid live \"yes\": expected true or false");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"snapshot"})"), "snapshot takes a directory");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"status","arguments":[]})"),
            "'arguments' is to be an object, not []");
  EXPECT_EQ(why_not(R"({"version":2,"id":1,"command":"status","more":[]})"), "");
  EXPECT_EQ(why_not(R"({"version":3,"id":1,"command":"status"})"),
            "version 3 of the control protocol is not spoken here, 1 and 2 are");
}

// ---- version 1: what older clients send and read, byte for byte

TEST(ControlV1, LinesAreWhatTheyWere) {
  EXPECT_EQ(encode(RequestV1{"balloon", "512M", {}}),
            "{\"argument\":\"512M\",\"command\":\"balloon\",\"version\":1}\n");
  EXPECT_EQ(encode(RequestV1{"snapshot", "/a", {{"live", "true"}}}),
            "{\"argument\":\"/a\",\"command\":\"snapshot\",\"options\":{\"live\":\"true\"},"
            "\"version\":1}\n");
  EXPECT_EQ(encode(Reply{}), "{\"ok\":true}\n");
  EXPECT_EQ(encode(Reply{{}, true, R"({"b":1,"a":[]})", ""}),
            "{\"ok\":true,\"result\":{\"a\":[],\"b\":1}}\n");
  EXPECT_EQ(encode(Reply{{}, false, "", "no"}), "{\"error\":\"no\",\"ok\":false}\n");
}

TEST(ControlV1, RequestsAreRead) {
  const auto balloon = decode_request(R"({"version":1,"command":"balloon","argument":"512M"})");
  EXPECT_EQ(balloon.version, 1u);
  EXPECT_FALSE(balloon.id);
  EXPECT_EQ(std::get<Balloon>(balloon.command.value()).size, "512M");
  // Without a version it is the first.
  EXPECT_EQ(decode_request(R"({"command":"status","more":[]})").version, 1u);
  for (const auto* name : {"pause", "resume", "stop", "power-button", "status", "metrics"}) {
    const auto request = decode_request(encode(RequestV1{name, "", {}}));
    ASSERT_TRUE(request.command) << name;
    EXPECT_EQ(name_of(*request.command), name);
  }
  const auto snapshot = decode_request(
      R"({"command":"snapshot","argument":"/a","options":{"live":"false","stop":true,)"
      R"("incremental":"/b"}})");
  const auto& typed = std::get<Snapshot>(snapshot.command.value());
  EXPECT_EQ(typed.directory, "/a");
  EXPECT_EQ(typed.parent, "/b");
  EXPECT_FALSE(typed.live);
  EXPECT_TRUE(typed.stop);
}

TEST(ControlV1, RefusesInTheWordsThatItHad) {
  for (const char* bad : {"", "[]", "{", "{}", R"({"command":7})", R"({"command":""})"}) {
    EXPECT_NE(why_not(bad), "") << bad;
  }
  EXPECT_EQ(why_not("{}"), "the request has no command");
  EXPECT_EQ(why_not("[]"), "not a JSON object: '[]'");
  EXPECT_EQ(why_not(R"({"command":"snapshot","argument":"/a","options":{"live":"yes"}})"),
            "option 'live' is true or false, not 'yes'");
  EXPECT_EQ(why_not(R"({"command":"snapshot","argument":"/a","options":{"liv":"true"}})"),
            "snapshot has no option 'liv' (did you mean 'live'?)");
  EXPECT_EQ(why_not(R"({"command":"snapshot"})"), "snapshot takes a directory");
  EXPECT_EQ(why_not(R"({"command":"snapshot","options":{"live":1}})"),
            "'live' is to be a text, not 1");
  EXPECT_EQ(why_not(R"({"command":"pauze"})"), "unknown command 'pauze' (did you mean 'pause'?)");
  EXPECT_EQ(why_not(R"({"command":"events"})"), "unknown command 'events'");
  EXPECT_FALSE(decode_reply(R"({"ok":1})"));
}

}  // namespace
}  // namespace vmm::protocol
