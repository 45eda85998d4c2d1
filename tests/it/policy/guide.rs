//! `docs/policy-guide.md`: every situation on it, as it is written there.
//!
//! Owns the reading of that page: each block of TOML becomes a Breakwater before an empty Redis, each question of the
//! block behind it is asked on one connection, in order. Never has a rule of its own. What surprises: `*40` behind a
//! question asks it so often at once and wants the answer of one of them.

use crate::support::{Client, Proxy, RedisServer, command};

/// One situation: its heading, its policy, its questions and what each is answered with.
struct Situation<'a> {
    heading: &'a str,
    policy: &'a str,
    questions: Vec<(&'a str, &'a str)>,
}

#[test]
fn each_situation_on_the_page_is_as_it_says() {
    let page = include_str!("../../../docs/policy-guide.md");
    let situations: Vec<Situation<'_>> = page.split("\n## ").skip(1).map(situation).collect();
    assert_eq!(situations.len(), 13, "the page promises thirteen");
    let redis = RedisServer::start();
    for situation in &situations {
        redis.client().ask("FLUSHALL");
        let proxy = Proxy::guarding(&redis.url(), situation.policy).ready();
        let mut client = proxy.client();
        for (question, wanted) in &situation.questions {
            let answer = ask(&mut client, question, wanted);
            assert!(
                is_like(&answer, wanted),
                "{}\n> {question}\nwanted {wanted}\ngot    {answer}",
                situation.heading
            );
        }
    }
}

fn situation(section: &str) -> Situation<'_> {
    let (heading, rest) = section.split_once('\n').expect("a heading is a line");
    let block = |kind: &str| {
        let (_, rest) = rest.split_once(kind).expect("each situation has both blocks");
        rest.split_once("```").expect("a block ends").0.trim_start_matches('\n')
    };
    let mut lines = block("```text").lines();
    let mut questions = Vec::new();
    while let (Some(question), Some(answer)) = (lines.next(), lines.next()) {
        questions.push((question.strip_prefix("> ").expect("a question"), answer));
    }
    assert!(!questions.is_empty(), "{heading} asks nothing");
    Situation { heading, policy: block("```toml"), questions }
}

/// The answer to one question, or of many at once that which is wanted, if one has it.
fn ask(client: &mut Client, question: &str, wanted: &str) -> String {
    let (line, times) = match question.split_once('*') {
        Some((line, count)) if count.parse::<usize>().is_ok() => (line, count.parse().unwrap_or(1)),
        _ => (question, 1),
    };
    let words = words(line);
    client.send(command(&words).repeat(times));
    let answers: Vec<String> = client.frames(times).iter().map(|it| first_line(it)).collect();
    let found = answers.iter().find(|answer| is_like(answer, wanted));
    found.or(answers.last()).cloned().unwrap_or_default()
}

fn first_line(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).lines().next().unwrap_or_default().to_owned()
}

/// `…` at the end stands for anything.
fn is_like(answer: &str, wanted: &str) -> bool {
    wanted.strip_suffix('…').map_or(answer == wanted, |start| answer.starts_with(start))
}

/// The words of a line as a shell would cut it: quotes keep one together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
