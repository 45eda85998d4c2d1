//! Scripts with and without what the lint looks for.
//!
//! Owns the tables of both: each loop without end has a sister that looks like it and ends. A script that is refused
//! although it ends is worse than one that is missed, because the watchdog catches the latter.

use super::*;

/// What is found: the line and column of each loop without end.
fn endless(source: &str) -> Vec<(u32, u32)> {
    let lint = lint(source.as_bytes());
    let is_endless = |finding: &&Finding| finding.fault == Fault::Endless;
    let places = lint.findings.iter().filter(is_endless);
    places.map(|finding| (finding.position.line, finding.position.column)).collect()
}

fn calls(source: &str) -> Vec<String> {
    let lint = lint(source.as_bytes());
    let show = |call: &Call| {
        let words: Vec<_> = call.words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        format!("{}{}", words.join(" "), if call.is_whole { "" } else { " …" })
    };
    lint.calls.iter().map(show).collect()
}

#[test]
fn loops_that_nothing_ends_are_found() {
    for source in [
        "while true do end",
        "while 1 do end",
        "while 0 do end",
        "while 'x' do end",
        "while \"\" do end",
        "while [[x]] do end",
        "while (true) do end",
        "while ((1)) do end",
        "while not false do end",
        "while not nil do end",
        "while not not true do end",
        "while true or x do end",
        "while x or true do end",
        "while true and 1 do end",
        "while true --[[ break ]] do -- break\n end",
        "repeat until false",
        "repeat until nil",
        "repeat until (false)",
        "repeat until not true",
        "repeat until false; local x = 1",
        "repeat until false local x = 1",
        "repeat local a = 'break' until false",
        "for i = 1, math.huge do end",
        "for i=1,math.huge,2 do end",
        "for i = #KEYS, math.huge do redis.call('INCR', 'x') end",
        "for i = 1, 1/0 do end",
        // The way out is another loop's, or another function's.
        "while true do for i = 1, 3 do break end end",
        "while true do while x do break end end",
        "while true do local f = function() return 1 end end",
        "while true do local function f() error('x') end end",
        "while true do repeat break until x end",
        "while true do t.error('x') end",
        "while true do x = coroutine.yield end",
        "while true do coroutine.wrap(function() coroutine.yield() end)() end",
        "while true do local error = 1 end",
        "while true do t.break_ = 1 end",
        "#!lua name=lib\nredis.register_function('f', function() while true do end end)",
        "if x then while true do redis.call('PING') end end",
        "while true do if x then y = 1 elseif z then y = 2 else y = 3 end end",
        "while true do do end end",
    ] {
        assert_eq!(endless(source).len(), 1, "{source}");
        assert!(lint(source.as_bytes()).endless().is_some(), "{source}");
    }
}

#[test]
fn loops_that_can_end_are_left_alone() {
    for source in [
        "while true do break end",
        "while true do if x then break end end",
        "while true do do break end end",
        "while true do return 1 end",
        "while true do if redis.call('LLEN', KEYS[1]) == 0 then return 1 end end",
        "while true do for i = 1, 3 do return i end end",
        "while true do error('x') end",
        "while true do error{err='x'} end",
        "while true do assert(x) end",
        "while true do for i = 1, 3 do error 'x' end end",
        "while true do coroutine.yield(x) end",
        "local yield = coroutine.yield; for i = 1, math.huge do yield(i) end",
        "coroutine.wrap(function() repeat coroutine.yield() until false end)()",
        "while x do end",
        "while x() do end",
        "while true and x do end",
        "while not x do end",
        "while false do end",
        "while nil do end",
        "while 1 == 2 do end",
        "while 1 < n do end",
        "while (x) do end",
        "while #t > 0 do end",
        "while 1 + n > 3 do end",
        "while 'a' .. b == c do end",
        "while (function() return false end)() do end",
        "repeat until true",
        "repeat until x",
        "repeat until false or x",
        "repeat until false == x",
        "repeat until nil ~= x",
        "repeat break until false",
        "repeat if x then return 1 end until false",
        "for i = 1, 10 do end",
        "for i = math.huge, 1 do end",
        "for i = 1, math.huge, -1 do end",
        "for i = 1, math.huge do if x then break end end",
        "for i = 1, math.huge - n do end",
        "for i = 1, f(1, math.huge) do end",
        "for k, v in pairs(t) do end",
        "local s = 'while true do end'",
        "-- while true do end",
        "--[[ while true do end ]]",
        "local t = {} t.while_ = 1",
        "return redis.call('GET', KEYS[1])",
    ] {
        assert_eq!(endless(source), [], "{source}");
    }
}

#[test]
fn each_loop_is_found_at_its_place() {
    let source = "local x = 1\n  while true do\n  repeat\n  until false\nend\n";
    assert_eq!(endless(source), [(3, 3), (2, 3)]);
}

#[test]
fn what_the_server_will_not_compile_is_left_to_it() {
    for source in [
        "while true do",
        "while true do end end",
        "while true do end until x",
        "while true do end x = 'abc",
        "while 1do end",
        "repeat end",
    ] {
        let lint = lint(source.as_bytes());
        let is_said = |it: &Finding| matches!(it.fault, Fault::Syntax | Fault::Number);
        assert!(lint.findings.iter().any(is_said), "{source}");
        assert_eq!(lint.endless(), None, "{source}");
    }
    let deep = format!("{}while true do end{}", "do ".repeat(300), " end".repeat(300));
    assert_eq!(lint(deep.as_bytes()).endless(), None, "Lua has a bound of its own");
}

#[test]
fn no_number_excuses_a_loop_without_end() {
    for number in ["0x1p4", "0x1P04", "3y", "0x1p", "1..2"] {
        let script = format!("local x = {number}; while true do end");
        assert!(lint(script.as_bytes()).endless().is_some(), "{script}");
    }
}

#[test]
fn commands_are_known_by_their_literal_names() {
    for (source, want) in [
        ("redis.call('GET', KEYS[1])", &["GET …"][..]),
        ("redis.call('KEYS', '*')", &["KEYS *"]),
        ("redis.pcall(\"CONFIG\", 'SET', 'save', '')", &["CONFIG SET save "]),
        ("server.call('flushall')", &["flushall"]),
        ("redis.call 'FLUSHALL'", &["FLUSHALL"]),
        ("redis['call']('FLUSHALL')", &["FLUSHALL"]),
        ("redis.call[[FLUSHALL]]", &["FLUSHALL"]),
        ("redis.call('\\70LUSHALL')", &["FLUSHALL"]),
        ("redis . call ( 'LRANGE' , 'l' , 0 , -1 )", &["LRANGE l 0 …"]),
        ("redis.call('KEYS', 'a' .. ARGV[1])", &["KEYS …"]),
        ("redis.call('KE' .. 'YS', '*')", &[]),
        ("redis.call(cmd, 'x')", &[]),
        ("local call = redis.call; call('KEYS', '*')", &["KEYS *"]),
        ("local call, pcall = redis.call, redis.pcall; call('KEYS', '*')", &[]),
        ("local x = redis.call('GET', 'k') x('KEYS')", &["GET k"]),
        ("t.redis.call('KEYS', '*')", &[]),
        ("-- redis.call('KEYS', '*')", &[]),
        ("redis.log(redis.LOG_WARNING, 'KEYS')", &[]),
        ("redis.call(unpack(ARGV))", &[]),
        ("redis.call('SET', redis.call('GET', 'a'), 1)", &["SET …", "GET a"]),
    ] {
        assert_eq!(calls(source), want, "{source}");
    }
}

#[test]
fn slow_commands_are_warned_of_in_loops_only() {
    let slow = |source: &str| {
        let lint = lint(source.as_bytes());
        lint.findings.iter().filter(|finding| finding.fault == Fault::Slow).count()
    };
    assert_eq!(slow("for i = 1, 3 do redis.call('SMEMBERS', KEYS[i]) end"), 1);
    assert_eq!(slow("while x do redis.call('hgetall', 'h') redis.call('GET', 'k') end"), 1);
    assert_eq!(slow("for i = 1, 3 do redis.call('GET', KEYS[i]) end"), 0);
    assert_eq!(slow("return redis.call('SMEMBERS', KEYS[1])"), 0);
    assert_eq!(slow("for i = 1, 3 do end redis.call('KEYS', '*')"), 0);
    assert!(!lint(b"for i = 1, 3 do redis.call('KEYS', 'x') end").findings[0].fault.is_error());
}

#[test]
fn hostile_scripts_take_linear_time_and_bounded_memory() {
    // Quadratic time would take hours here.
    for piece in [
        "while ",
        "while not ",
        "while (",
        "until ",
        "do ",
        "end ",
        "redis.call(",
        "redis.call('x',",
        "for i=1,",
        "for i=1,math.huge do ",
        "function ",
        "a=redis.call ",
        "while true do end ",
        "or ",
        "while true or ",
        "error ",
        "repeat ",
    ] {
        let lint = lint(piece.repeat(1 << 15).as_bytes());
        assert!(lint.findings.len() <= FINDINGS_MAX && lint.calls.len() <= CALLS_MAX, "{piece}");
    }
}

proptest::proptest! {
    #[test]
    fn no_words_make_it_panic(
        words in proptest::collection::vec(
            proptest::sample::select(&[
                "while", "true", "do", "end", "repeat", "until", "false", "for", "i", "=", "1", ",",
                "math.huge", "(", ")", "function", "if", "then", "else", "break", "return", "error",
                "not", "and", "or", "nil", "redis.call", "'KEYS'", "[[", "]]", "--", "\n", "'", "\\",
            ][..]),
            0..60,
        )
    ) {
        let _ = lint(words.join(" ").as_bytes());
    }
}
