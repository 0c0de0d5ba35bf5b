//! Typing to a machine: what a person at its console would do, each step when the machine has said
//! what the person waits for.

use std::io::Write;

use anyhow::{Context, Result};

/// One step: when the console has shown `after`, since the step before, `keys` are typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What the machine writes.
    pub after: &'static str,
    /// What is typed then, as a terminal sends it.
    pub keys: &'static str,
}

/// The shell's prompt, as the kernel sets PS1.
const PROMPT: &str = "mm# ";

/// What a terminal sends for Ctrl-C and Ctrl-D.
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A session in the shell. A program says that it runs in a line of its own before it is
/// interrupted: the line that was typed is echoed, too, but not with a line break before the word.
pub const SHELL: &[Turn] = &[
    turn(PROMPT, "echo sum $((6 * 7))\r"),
    turn("\nsum 42\n", ""),
    // A program that sleeps in the kernel.
    turn(PROMPT, "sh -c 'echo sleeping; exec sleep 1000'\r"),
    turn("\nsleeping\n", CTRL_C),
    turn(PROMPT, "echo status $?\r"),
    turn("\nstatus 130\n", ""),
    // One that never enters it.
    turn(PROMPT, "sh -c 'echo looping; while :; do :; done'\r"),
    turn("\nlooping\n", CTRL_C),
    turn(PROMPT, "echo status $?\r"),
    turn("\nstatus 130\n", ""),
    // One that handles the signal.
    turn(
        PROMPT,
        "sh -c 'trap \"echo caught; exit 5\" INT; echo trapping; while :; do :; done'\r",
    ),
    turn("\ntrapping\n", CTRL_C),
    turn("\ncaught\n", ""),
    turn(PROMPT, "echo status $?\r"),
    turn("\nstatus 5\n", ""),
    // All programs of a pipe, and none in the background.
    turn(PROMPT, "sleep 1000 &\r"),
    turn(PROMPT, "sh -c 'echo piping; exec sleep 1000' | cat\r"),
    turn("\npiping\n", CTRL_C),
    turn(PROMPT, "kill -0 $! && echo still there\r"),
    turn("\nstill there\n", ""),
    turn(PROMPT, "kill $!\r"),
    // One that reads the terminal, to its end.
    turn(PROMPT, "sh -c 'echo reading; exec cat'\r"),
    turn("\nreading\n", "a lime\x7fne\r"),
    turn("\na limne\n", CTRL_D),
    // What was typed is taken back, and the shell stays.
    turn(PROMPT, "exit 9"),
    turn("exit 9", CTRL_C),
    turn(PROMPT, "exit 0\r"),
];

const fn turn(after: &'static str, keys: &'static str) -> Turn {
    Turn { after, keys }
}

/// A session that goes on.
pub struct Dialogue {
    left: &'static [Turn],
    /// Bytes of the output that earlier steps have used up.
    heard: usize,
}

impl Dialogue {
    /// Begins a session.
    pub fn new(turns: &'static [Turn]) -> Self {
        Self {
            left: turns,
            heard: 0,
        }
    }

    /// Types what is to be typed now that the console has shown `output`, from its beginning.
    ///
    /// # Errors
    /// When the machine takes no input.
    pub fn answer(&mut self, output: &[u8], keyboard: &mut impl Write) -> Result<()> {
        while let Some((turn, left)) = self.left.split_first() {
            let fresh = output.get(self.heard..).unwrap_or_default();
            let after = turn.after.as_bytes();
            let Some(at) = fresh.windows(after.len()).position(|part| part == after) else {
                break;
            };
            // A line break may end one text and begin the next.
            self.heard += at + after.len() - usize::from(after.ends_with(b"\n"));
            self.left = left;
            keyboard
                .write_all(turn.keys.as_bytes())
                .and_then(|()| keyboard.flush())
                .context("the machine takes no input")?;
        }
        Ok(())
    }

    /// Returns what the machine should have written next.
    pub fn waits_for(&self) -> Option<&'static str> {
        self.left.first().map(|turn| turn.after)
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialogue, Turn, turn};

    const TURNS: &[Turn] = &[
        turn("# ", "one\r"),
        turn("\n1\n", ""),
        turn("\n# ", "two\r"),
    ];

    #[test]
    fn a_step_waits_for_its_text_after_the_step_before() {
        let mut session = Dialogue::new(TURNS);
        let mut typed = Vec::new();
        let mut hear = |output: &[u8]| {
            typed.clear();
            session.answer(output, &mut typed).unwrap();
            (
                String::from_utf8_lossy(&typed).into_owned(),
                session.waits_for(),
            )
        };
        assert_eq!(hear(b"boot\n#"), (String::new(), Some("# ")));
        assert_eq!(hear(b"boot\n# "), ("one\r".to_string(), Some("\n1\n")));
        // The prompt that was there before is not the one that is waited for.
        assert_eq!(hear(b"boot\n# one\n1"), (String::new(), Some("\n1\n")));
        assert_eq!(hear(b"boot\n# one\n1\n# "), ("two\r".to_string(), None));
        assert_eq!(hear(b"boot\n# one\n1\n# two"), (String::new(), None));
    }
}
