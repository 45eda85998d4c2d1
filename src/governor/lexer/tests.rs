//! Words of Lua, well-formed and hostile.
//!
//! Owns the proof that the lexer agrees with Lua where Lua would compile, and that nothing else makes it panic or
//! slow. Expectations follow Lua 5.1's own reader, which the servers embed.

use proptest::prelude::*;

use super::*;

fn words(source: &str) -> Vec<Kind<'_>> {
    Lexer::new(source.as_bytes()).map(|token| token.kind).collect()
}

fn text(bytes: &[u8]) -> Kind<'_> {
    Kind::Text(Cow::Borrowed(bytes))
}

#[test]
fn names_numbers_and_symbols_are_told_apart() {
    use Kind::{Name, Number, Symbol};
    assert_eq!(
        words("a.b_1 = 0x1F..3.5e-2 ~= .5"),
        [
            Name(b"a"),
            Symbol("."),
            Name(b"b_1"),
            Symbol("="),
            Number(b"0x1F"),
            Symbol(".."),
            Number(b"3.5e-2"),
            Symbol("~="),
            Number(b".5"),
        ]
    );
}

#[test]
fn what_sticks_to_a_number_breaks_it() {
    for source in ["1do", "3x", "0x", "0xg", "1..2", "5e", "1e+", "0x1p", "0xp1", "0x1p4_", "1p2"] {
        assert_eq!(words(source), [Kind::NoNumber], "{source}");
    }
    for source in ["1", "1.", "3e10", "0XaF", "1e+5", "0x1p4", "0xffP02"] {
        assert_eq!(words(source), [Kind::Number(source.as_bytes())], "{source}");
    }
}

#[test]
fn strings_are_as_the_script_will_see_them() {
    let table: [(&str, &[u8]); 12] = [
        ("'a\"b'", b"a\"b"),
        (r#""a\"b""#, b"a\"b"),
        (r"'\65\066\0677'", b"ABC7"),
        (r"'\a\b\f\n\r\t\v\\\q'", b"\x07\x08\x0c\n\r\t\x0b\\q"),
        ("'a\\\nb'", b"a\nb"),
        ("'a\\\r\nb'", b"a\nb"),
        ("[[a]b]]", b"a]b"),
        ("[==[a]]b]=]c]==]", b"a]]b]=]c"),
        ("[=[]]=]", b"]"),
        ("[[\nx]]", b"x"),
        ("[[--x]]", b"--x"),
        ("'--x'", b"--x"),
    ];
    for (source, want) in table {
        assert_eq!(words(source), [text(want)], "{source}");
    }
}

#[test]
fn comments_of_any_level_are_passed_over() {
    for source in [
        "-- while true do end",
        "--[[ while true\ndo end ]]",
        "--[==[ ]] ]=] ]==]",
        "--[=x\n",
        "#!lua name=mylib\n",
        "#!/usr/bin/lua",
        "  \t\r\n\x0b\x0c",
    ] {
        assert_eq!(words(source), [], "{source}");
    }
    assert_eq!(words("--[[x]]a--b\nc"), [Kind::Name(b"a"), Kind::Name(b"c")]);
}

#[test]
fn what_has_no_end_is_one_broken_word() {
    for source in ["'abc", "'abc\ndef'", "[[abc", "[==[a]=]", "--[[abc", "'abc\\"] {
        let first = words(source).into_iter().next();
        assert!(matches!(first, Some(Kind::Broken(_))), "{source}: {first:?}");
    }
    assert_eq!(words("'\\256'")[0], Kind::Broken("this escape is above \\255"));
    assert_eq!(words("a $ b").len(), 3, "what follows is read on");
    assert_eq!(words("écran")[0], Kind::Broken("Lua knows no such character"));
}

#[test]
fn places_count_lines_of_every_kind_and_characters() {
    let source = "a\r\nb\n\rc\rd\n'é' e [[\n\n]] f";
    let places: Vec<(u32, u32)> = Lexer::new(source.as_bytes())
        .map(|token| (token.position.line, token.position.column))
        .collect();
    assert_eq!(places, [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (5, 5), (5, 7), (7, 4)]);
}

#[test]
fn hostile_lengths_take_linear_time() {
    // Quadratic time would take hours here.
    for piece in ["[=", "]=", "[[", "--[", "'\\", "((", "\u{80}", "a ", "0x", "]]", "[==", "\n\r"] {
        let source = piece.repeat(1 << 17);
        let count = Lexer::new(source.as_bytes()).count();
        assert!(count <= source.len(), "{piece}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_each_word_takes_some(
        source in proptest::collection::vec(
            prop_oneof![
                any::<u8>(),
                proptest::sample::select(&b"[]=-'\"\\\n\r#!0x19.eE~<>"[..]),
            ],
            0..200,
        )
    ) {
        let mut lexer = Lexer::new(&source);
        let (mut last, mut place) = (0, Position { line: 1, column: 0 });
        while let Some(token) = lexer.next() {
            prop_assert!(lexer.at > last || source.is_empty() || lexer.at == source.len());
            prop_assert!(token.position >= place, "{:?} behind {place:?}", token.position);
            (last, place) = (lexer.at, token.position);
        }
        prop_assert_eq!(lexer.at, source.len());
    }
}
