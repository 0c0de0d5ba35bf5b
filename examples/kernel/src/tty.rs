//! The terminal's line discipline: keys in, lines out; see termios(3).
//!
//! Bytes from the console's receiver go through [`Tty::input`], which echoes,
//! edits the line and tells which signal the key asks for. Readers get whole
//! lines in canonical mode and bytes as they come otherwise. Bytes written by
//! programs pass [`Tty::cook`], which turns `\n` into `\r\n`.
//! The discipline never blocks and never prints: its caller does.
//!
//! ```text
//!  key ──► input ──► line (being edited) ──newline, ^D──► ready ──► read
//!            └─────► echo                 └──raw mode──────┘
//! ```

use alloc::collections::VecDeque;

use crate::errno::{Errno, Result};

/// Bytes of input kept; what comes beyond is dropped.
const INPUT_BYTES: usize = 4096;

/// `struct termios` of the Linux kernel interface (36 bytes on every machine we run).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    /// Input modes.
    pub iflag: u32,
    /// Output modes.
    pub oflag: u32,
    /// Line speed and format.
    pub cflag: u32,
    /// Local modes: echo, canonical, signals.
    pub lflag: u32,
    /// Line discipline number.
    pub line: u8,
    /// Special characters.
    pub cc: [u8; 19],
}

const ICRNL: u32 = 0o400;
const OPOST: u32 = 0o1;
const ONLCR: u32 = 0o4;
const ISIG: u32 = 0o1;
const ICANON: u32 = 0o2;
const ECHO: u32 = 0o10;
const ECHOE: u32 = 0o20;
const VINTR: usize = 0;
const VQUIT: usize = 1;
const VERASE: usize = 2;
const VKILL: usize = 3;
const VEOF: usize = 4;
const VMIN: usize = 6;
const VSUSP: usize = 10;

impl Termios {
    /// Bytes of the structure as programs see it.
    pub const SIZE: usize = 36;

    /// The state of a fresh terminal: canonical, echoing, signals on.
    #[must_use]
    pub const fn sane() -> Self {
        let mut cc = [0; 19];
        cc[VINTR] = 3;
        cc[VQUIT] = 28;
        cc[VERASE] = 127;
        cc[VKILL] = 21;
        cc[VEOF] = 4;
        cc[VMIN] = 1;
        cc[VSUSP] = 26;
        Termios {
            iflag: ICRNL,
            oflag: OPOST | ONLCR,
            cflag: 0o2277,
            lflag: ISIG | ICANON | ECHO | ECHOE,
            line: 0,
            cc,
        }
    }

    /// Lays the structure out as programs expect it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        for (i, word) in [self.iflag, self.oflag, self.cflag, self.lflag]
            .into_iter()
            .enumerate()
        {
            out[i * 4..i * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        out[16] = self.line;
        out[17..].copy_from_slice(&self.cc);
        out
    }

    /// Reads the structure as programs lay it out.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let word =
            |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let mut cc = [0; 19];
        cc.copy_from_slice(&bytes[17..]);
        Termios {
            iflag: word(0),
            oflag: word(4),
            cflag: word(8),
            lflag: word(12),
            line: bytes[16],
            cc,
        }
    }
}

/// What a key asks of the foreground process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nothing but input.
    Plain,
    /// ^C: SIGINT.
    Interrupt,
    /// ^\: SIGQUIT.
    Quit,
}

/// One terminal.
pub struct Tty {
    /// Modes as programs set them.
    pub termios: Termios,
    /// Foreground process group (TIOCSPGRP).
    pub group: u32,
    /// Session that owns the terminal.
    pub session: u32,
    line: VecDeque<u8>,
    ready: VecDeque<u8>,
    /// Ends of file typed and not yet read, by their place in `ready`.
    ends: VecDeque<usize>,
}

impl Tty {
    /// Makes a terminal in its sane state.
    #[must_use]
    pub const fn new() -> Self {
        Tty {
            termios: Termios::sane(),
            group: 0,
            session: 0,
            line: VecDeque::new(),
            ready: VecDeque::new(),
            ends: VecDeque::new(),
        }
    }

    /// Takes one key; `echo` receives what the terminal shows for it.
    pub fn input(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) -> Key {
        let byte = if byte == b'\r' && self.on(self.termios.iflag, ICRNL) {
            b'\n'
        } else {
            byte
        };
        let cc = self.termios.cc;
        if self.on(self.termios.lflag, ISIG)
            && byte != 0
            && (byte == cc[VINTR] || byte == cc[VQUIT])
        {
            self.line.clear();
            if self.on(self.termios.lflag, ECHO) {
                echo(&[b'^', byte ^ 0x40, b'\r', b'\n']);
            }
            return if byte == cc[VINTR] {
                Key::Interrupt
            } else {
                Key::Quit
            };
        }
        if self.on(self.termios.lflag, ICANON) {
            self.edit(byte, echo)
        } else {
            self.raw(byte, echo)
        }
        Key::Plain
    }

    fn on(&self, word: u32, flag: u32) -> bool {
        word & flag != 0
    }

    fn edit(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) {
        let cc = self.termios.cc;
        let shown = self.on(self.termios.lflag, ECHO);
        if byte == cc[VERASE] || byte == 8 {
            if self.line.pop_back().is_some() && shown {
                echo(b"\x08 \x08");
            }
        } else if byte == cc[VKILL] {
            for _ in 0..self.line.len() {
                if shown {
                    echo(b"\x08 \x08");
                }
            }
            self.line.clear();
        } else if byte == cc[VEOF] {
            self.ready.append(&mut self.line);
            if self.ends.len() < 64 {
                self.ends.push_back(self.ready.len());
            }
        } else if self.has_room_for(byte) {
            self.line.push_back(byte);
            if byte == b'\n' {
                self.ready.append(&mut self.line);
            }
            if shown {
                if byte == b'\n' {
                    echo(b"\r\n")
                } else {
                    echo(&[byte])
                }
            }
        }
    }

    /// The last place is kept for the end of a line, which may always be typed.
    fn has_room_for(&self, byte: u8) -> bool {
        let kept = if byte == b'\n' { 0 } else { 1 };
        self.line.len() + self.ready.len() + kept < INPUT_BYTES
    }

    fn raw(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) {
        if self.ready.len() < INPUT_BYTES {
            self.ready.push_back(byte);
            if self.on(self.termios.lflag, ECHO) {
                echo(&[byte]);
            }
        }
    }

    /// Takes one line (canonical) or what is there (raw); 0 is a typed end of file.
    ///
    /// # Errors
    /// `EAGAIN` while nothing is ready.
    pub fn read(&mut self, into: &mut [u8]) -> Result {
        if into.is_empty() {
            return Ok(0);
        }
        if !self.readable() {
            let polls = !self.on(self.termios.lflag, ICANON) && self.termios.cc[VMIN] == 0;
            return if polls { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let canonical = self.on(self.termios.lflag, ICANON);
        let stop = self.ends.front().copied().unwrap_or(usize::MAX);
        let mut n = 0;
        while n < into.len() && n < stop {
            let Some(byte) = self.ready.pop_front() else {
                break;
            };
            into[n] = byte;
            n += 1;
            if canonical && byte == b'\n' {
                break;
            }
        }
        self.ends.iter_mut().for_each(|end| *end -= n.min(*end));
        // ^D after text ends the text; ^D after a whole line is an end of file of its own.
        if n == stop && (n == 0 || into[n - 1] != b'\n') {
            self.ends.pop_front();
        }
        Ok(n)
    }

    /// Tells whether a read would return at once.
    #[must_use]
    pub fn readable(&self) -> bool {
        !self.ready.is_empty() || !self.ends.is_empty()
    }

    /// Counts the bytes ready to be read (FIONREAD).
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.ready.len()
    }

    /// Forgets all input (TCSETSF, TCFLSH).
    pub fn flush_input(&mut self) {
        self.line.clear();
        self.ready.clear();
        self.ends.clear();
    }

    /// Passes a program's output to `out`, with `\n` shown as `\r\n` when so set.
    pub fn cook(termios: &Termios, bytes: &[u8], mut out: impl FnMut(&[u8])) {
        if termios.oflag & (OPOST | ONLCR) != OPOST | ONLCR {
            return out(bytes);
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(text) => {
                    out(text);
                    out(b"\r\n");
                }
                None => out(piece),
            }
        }
    }
}

impl Default for Tty {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{ICANON, INPUT_BYTES, Key, Termios, Tty};
    use crate::errno::Errno;

    fn type_keys(tty: &mut Tty, keys: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        for &key in keys {
            tty.input(key, |bytes| shown.extend_from_slice(bytes));
        }
        shown
    }

    fn read(tty: &mut Tty, n: usize) -> Result<Vec<u8>, Errno> {
        let mut buf = vec![0; n];
        tty.read(&mut buf).map(|got| buf[..got].to_vec())
    }

    #[test]
    fn lines_are_edited_and_echoed() {
        let mut tty = Tty::new();
        assert_eq!(type_keys(&mut tty, b"lx\x7fs\r"), b"lx\x08 \x08s\r\n");
        assert_eq!(read(&mut tty, 100), Ok(b"ls\n".to_vec()));
        assert_eq!(read(&mut tty, 100), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_line_that_is_too_long_can_be_ended() {
        let mut tty = Tty::new();
        type_keys(&mut tty, &[b'x'; INPUT_BYTES + 9]);
        type_keys(&mut tty, b"\n");
        let line = read(&mut tty, 2 * INPUT_BYTES).unwrap();
        assert_eq!((line.len(), line.last()), (INPUT_BYTES, Some(&b'\n')));
        type_keys(&mut tty, b"next\n");
        assert_eq!(read(&mut tty, 100), Ok(b"next\n".to_vec()));
    }

    #[test]
    fn a_read_returns_one_line() {
        let mut tty = Tty::new();
        type_keys(&mut tty, b"one\ntwo\n");
        assert_eq!(read(&mut tty, 2), Ok(b"on".to_vec()));
        assert_eq!(read(&mut tty, 100), Ok(b"e\n".to_vec()));
        assert_eq!(read(&mut tty, 100), Ok(b"two\n".to_vec()));
    }

    #[test]
    fn control_d_ends_the_file_or_the_line() {
        let mut tty = Tty::new();
        type_keys(&mut tty, b"\x04");
        assert_eq!(read(&mut tty, 10), Ok(vec![]));
        type_keys(&mut tty, b"line\n\x04");
        assert_eq!(read(&mut tty, 10), Ok(b"line\n".to_vec()));
        assert_eq!(read(&mut tty, 10), Ok(vec![]));
        type_keys(&mut tty, b"ab\x04c\n");
        assert_eq!(read(&mut tty, 10), Ok(b"ab".to_vec()));
        assert_eq!(read(&mut tty, 10), Ok(b"c\n".to_vec()));
        assert_eq!(read(&mut tty, 10), Err(Errno::EAGAIN));
    }

    #[test]
    fn control_c_asks_for_the_signal_and_drops_the_line() {
        let mut tty = Tty::new();
        type_keys(&mut tty, b"abc");
        assert_eq!(tty.input(3, |_| ()), Key::Interrupt);
        type_keys(&mut tty, b"d\n");
        assert_eq!(read(&mut tty, 10), Ok(b"d\n".to_vec()));
    }

    #[test]
    fn raw_mode_gives_bytes_at_once() {
        let mut tty = Tty::new();
        tty.termios.lflag &= !ICANON;
        type_keys(&mut tty, b"x");
        assert_eq!(read(&mut tty, 10), Ok(b"x".to_vec()));
    }

    #[test]
    fn the_structure_survives_the_way_to_programs_and_back() {
        let sane = Termios::sane();
        assert_eq!(Termios::from_bytes(&sane.to_bytes()), sane);
        let mut out = Vec::new();
        Tty::cook(&sane, b"a\nb", |bytes| out.extend_from_slice(bytes));
        assert_eq!(out, b"a\r\nb");
    }
}
