//! ioctl: what programs ask of the terminal, and of pipes how much is in them.

use super::Call;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::device::Device;
use crate::fs::open::{FileKind, flag};
use crate::tty::Termios;

const TCGETS: usize = 0x5401;
const TCSETS: usize = 0x5402;
const TCSETSW: usize = 0x5403;
const TCSETSF: usize = 0x5404;
const TCFLSH: usize = 0x540b;
const TIOCSCTTY: usize = 0x540e;
const TIOCGPGRP: usize = 0x540f;
const TIOCSPGRP: usize = 0x5410;
const TIOCGWINSZ: usize = 0x5413;
const TIOCSWINSZ: usize = 0x5414;
const FIONREAD: usize = 0x541b;
const FIONBIO: usize = 0x5421;
const TIOCGSID: usize = 0x5429;

impl<A: Arch> Call<'_, A> {
    pub(super) fn ioctl(&self, fd: usize, request: usize, argument: usize) -> Result {
        let file = self.file(fd)?;
        match (request as u32 as usize, &file.kind) {
            (FIONBIO, _) => {
                let on = u32::from_ne_bytes(self.get(argument)?) != 0;
                let mut flags = file.flags.lock();
                *flags = if on {
                    *flags | flag::NONBLOCK
                } else {
                    *flags & !flag::NONBLOCK
                };
                Ok(0)
            }
            (FIONREAD, FileKind::Pipe(end)) => {
                let n = end.line.pipe.lock().pending_bytes() as u32;
                self.put(argument, &n.to_ne_bytes()).map(|()| 0)
            }
            (request, FileKind::Device(_, Device::Terminal)) => self.terminal(request, argument),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn terminal(&self, request: usize, argument: usize) -> Result {
        let tty = &self.system.tty;
        match request {
            TCGETS => {
                let termios = tty.lock().termios;
                self.put(argument, &termios.to_bytes())?;
            }
            TCSETS | TCSETSW | TCSETSF => {
                let termios = Termios::from_bytes(&self.get(argument)?);
                let mut tty = tty.lock();
                tty.termios = termios;
                if request == TCSETSF {
                    tty.flush_input();
                }
            }
            TCFLSH => tty.lock().flush_input(),
            TIOCGPGRP => {
                let group = tty.lock().group;
                self.put(argument, &group.to_ne_bytes())?;
            }
            TIOCSPGRP => {
                let group = u32::from_ne_bytes(self.get(argument)?);
                tty.lock().group = group;
            }
            TIOCSCTTY => {
                let (group, session) = {
                    let shared = self.task.process.shared.lock();
                    (shared.group, shared.session)
                };
                let mut tty = tty.lock();
                (tty.group, tty.session) = (group, session);
            }
            TIOCGSID => {
                let session = tty.lock().session;
                self.put(argument, &session.to_ne_bytes())?;
            }
            TIOCGWINSZ => {
                let mut size = [0; 8];
                size[..2].copy_from_slice(&24u16.to_ne_bytes());
                size[2..4].copy_from_slice(&80u16.to_ne_bytes());
                self.put(argument, &size)?;
            }
            TIOCSWINSZ => {
                self.get::<8>(argument)?;
            }
            FIONREAD => {
                let n = tty.lock().pending_bytes() as u32;
                self.put(argument, &n.to_ne_bytes())?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
