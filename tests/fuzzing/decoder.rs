//! A decoder on trial.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, TestRunner};

use crate::{cost, inputs};

/// Cases of a run among the unit tests.
const CASES: u32 = 256;
/// Bytes that every decoder may take whatever it reads: tables that are made once, messages.
const MEMORY: usize = 4 << 20;
/// Bytes for each byte of input: a JSON tree of the smallest objects takes about 100.
const MEMORY_PER_BYTE: usize = 400;
/// Processor time for one small input, in a build without optimization.
const TIME: Duration = Duration::from_secs(2);

/// How long a failure is made smaller: one that ends in a limit of time takes that for each try.
const SHRINKING_MS: u32 = 60_000;

/// The number of cases of a property: `PROPTEST_CASES`, else `usual`.
pub fn cases(usual: u32) -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let shrinking = Config { max_shrink_iters: 20_000, max_shrink_time: SHRINKING_MS, ..Config::default() };
    let config = Config { failure_persistence: None, ..shrinking };
    if asked { config } else { Config { cases: usual, ..config } }
}

/// What is fed to a decoder, and what it may take.
#[derive(Debug)]
pub struct Decoder {
    examples: Vec<Vec<u8>>,
    words: &'static [&'static str],
    cases: u32,
    memory: (usize, usize),
    time: Duration,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { examples: Vec::new(), words: &[], cases: CASES, memory: (MEMORY, MEMORY_PER_BYTE), time: TIME }
    }
}

impl Decoder {
    /// One that reads these examples.
    pub fn of<B: Into<Vec<u8>>>(examples: impl IntoIterator<Item = B>) -> Decoder {
        Decoder { examples: examples.into_iter().map(Into::into).collect(), ..Decoder::default() }
    }

    /// The words of its language.
    #[must_use]
    pub fn words(self, words: &'static [&'static str]) -> Decoder {
        Decoder { words, ..self }
    }

    /// Another number of cases than usual, for what is slow.
    #[must_use]
    pub fn cases(self, cases: u32) -> Decoder {
        Decoder { cases, ..self }
    }

    /// The memory that one input may take: bytes at any rate, and for each byte of it.
    #[must_use]
    pub fn memory(self, bytes: usize, per_byte: usize) -> Decoder {
        Decoder { memory: (bytes, per_byte), ..self }
    }

    fn inputs(&self) -> BoxedStrategy<Vec<u8>> {
        let damaged = (!self.examples.is_empty()).then(|| inputs::damaged(self.examples.clone(), self.words).boxed());
        let soup = (!self.words.is_empty()).then(|| inputs::soup(self.words).boxed());
        let noise = || inputs::noise().boxed();
        let damaged = damaged.or(soup.clone()).unwrap_or_else(noise);
        let soup = soup.unwrap_or_else(|| damaged.clone());
        prop_oneof![1 => noise(), 3 => soup, 6 => damaged].boxed()
    }

    /// Feeds it; `decode` must not panic, and what it answers is let go.
    pub fn run<T>(self, decode: impl Fn(&[u8]) -> T) {
        let strategy = self.inputs();
        let result = TestRunner::new(cases(self.cases)).run(&strategy, |input| {
            self.once(&input, &decode);
            Ok(())
        });
        if let Err(e) = result {
            panic!("{e}");
        }
    }

    /// The same for what reads text.
    pub fn run_text<T>(self, decode: impl Fn(&str) -> T) {
        self.run(|input| decode(&String::from_utf8_lossy(input)));
    }

    /// Feeds it one input, and holds it to what it may take.
    pub fn once<T>(&self, input: &[u8], decode: impl Fn(&[u8]) -> T) {
        let mut held = 0;
        let taken = cost::time(|| held = cost::peak(|| drop(decode(input))));
        let allowed = self.memory.0 + self.memory.1 * input.len();
        assert!(held <= allowed, "{held} bytes for {} of input, {allowed} are allowed", input.len());
        assert!(taken <= self.time, "{taken:?} for {} bytes of input", input.len());
    }
}

/// Holds the time for an input to its size: one that is eight times as large may take some twenty
/// times as long, not sixty-four.
pub fn scales<T>(what: &str, size: usize, input: impl Fn(usize) -> T, work: impl Fn(T)) {
    let taken = |size: usize| {
        let input = input(size);
        cost::time(|| work(input))
    };
    // What is made once is not counted.
    taken(1);
    let (small, large) = (taken(size), taken(size * 8));
    assert!(large <= small * 24 + Duration::from_millis(60), "{what}: {size} in {small:?}, {} in {large:?}", size * 8);
}

/// Checks a property on values of a strategy, as many as [`cases`] says.
pub fn check<S: Strategy>(usual: u32, strategy: S, property: impl Fn(S::Value)) {
    let result = TestRunner::new(cases(usual)).run(&strategy, |value| {
        property(value);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}
