//! A walk through one world. Reads plain lines, so that it works at a terminal and in a pipe.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{anyhow, bail};

use crate::world::{Options, Step, TraceLine, Violation, Walk};

const HELP: &str = "\
Enter   the next happening
NUMBER  so many happenings
c       go on until the next fault strikes
p       payments with their states, and what is to come
h       this help
q       quit";
/// Happenings of the queue that are shown.
const QUEUE_SHOWN: usize = 10;

/// How a stretch of the walk ended.
enum End {
    Open,
    Rest,
    Broken(Violation),
}

/// `step --seed N`.
pub(super) fn step(seed: u64, options: &Options) -> anyhow::Result<()> {
    let mut walk = Walk::new(seed, options).map_err(|violation| anyhow!("{violation}"))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "seed {seed}{options}\n{HELP}")?;
    let asks = std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if asks {
            write!(out, "> ")?;
            out.flush()?;
        }
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        let end = match line.trim() {
            "" => go(&mut walk, 1, false, &mut out)?,
            "c" => go(&mut walk, u64::MAX, true, &mut out)?,
            "p" => {
                show(&walk, &mut out)?;
                End::Open
            }
            "q" => return Ok(()),
            other => match other.parse() {
                Ok(number) => go(&mut walk, number, false, &mut out)?,
                Err(_) => {
                    writeln!(out, "{HELP}")?;
                    End::Open
                }
            },
        };
        match end {
            End::Open => {}
            End::Rest => {
                writeln!(out, "{:>9} ms  the world is at rest, and every rule holds", walk.now_ms())?;
                return Ok(());
            }
            End::Broken(violation) => bail!("{violation}"),
        }
    }
}

fn go(walk: &mut Walk, at_most: u64, until_fault: bool, out: &mut impl Write) -> anyhow::Result<End> {
    for _ in 0..at_most {
        match walk.step() {
            Step::Happened(what, lines) => {
                // On the way to a fault only what can be read in the trace is shown.
                if !until_fault {
                    writeln!(out, "{:>9} ms  {what}", walk.now_ms())?;
                }
                print(&lines, out)?;
                if until_fault && lines.iter().any(|line| line.who == "fault") {
                    break;
                }
            }
            Step::Rest(lines) => {
                print(&lines, out)?;
                return Ok(End::Rest);
            }
            Step::Broken(violation, lines) => {
                print(&lines, out)?;
                return Ok(End::Broken(violation));
            }
        }
    }
    Ok(End::Open)
}

fn print(lines: &[TraceLine], out: &mut impl Write) -> anyhow::Result<()> {
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn show(walk: &Walk, out: &mut impl Write) -> anyhow::Result<()> {
    let payments = walk.payments();
    writeln!(out, "{} payments", payments.len())?;
    for payment in payments {
        writeln!(out, "  {payment}")?;
    }
    writeln!(out, "to come")?;
    for happening in walk.queue(QUEUE_SHOWN) {
        writeln!(out, "{happening}")?;
    }
    Ok(())
}
