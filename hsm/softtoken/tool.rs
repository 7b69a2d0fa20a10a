//! The soft token's tool: begins tokens, makes keys, commands faults. It is for demonstrations and
//! tests and is never installed with hufu; any PKCS#11 client does the first two as well.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hufu_softtoken::{Admin, Config, Fault, Faults, Garbage, KeyKind};
use zeroize::Zeroizing;

/// Begins tokens, makes keys in them, and makes them fail on command.
#[derive(Parser)]
#[command(name = "hufu-softtoken")]
struct Arguments {
    /// Configuration of the module; else the file that `HUFU_SOFTTOKEN_CONF` names.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Number of the slot.
    #[arg(long, global = true, default_value_t = 0)]
    slot: u32,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Initialise a token and set both PINs. One that was initialised loses all its objects.
    Init {
        /// Label of the token, 32 bytes at most.
        #[arg(long)]
        label: String,
        /// File with the security officer's PIN in its first line.
        #[arg(long)]
        so_pin_file: PathBuf,
        /// File with the user's PIN in its first line.
        #[arg(long)]
        pin_file: PathBuf,
    },
    /// Make a key that never leaves the token, and print the public key of a pair.
    Generate(Generate),
    /// Make the token fail until the opposite or `clear` is commanded.
    Fault {
        #[command(subcommand)]
        fault: FaultCommand,
    },
}

#[derive(Args)]
struct Generate {
    /// File with the user's PIN in its first line.
    #[arg(long)]
    pin_file: PathBuf,
    /// What the key is for.
    #[arg(long, value_enum, default_value_t = Kind::Sm2Sign)]
    kind: Kind,
    /// `CKA_LABEL`.
    #[arg(long)]
    label: String,
    /// `CKA_ID` in hexadecimal.
    #[arg(long, default_value = "")]
    id: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Sm2Sign,
    Sm2Decrypt,
    Sm4Encrypt,
    Sm4Wrap,
}

#[derive(Subcommand)]
enum FaultCommand {
    /// Each operation with a key takes so much longer.
    Latency {
        /// Microseconds; 0 ends it.
        #[arg(long)]
        micros: u64,
    },
    /// Every call waits until this is turned off.
    Hang {
        #[arg(value_enum)]
        switch: Switch,
    },
    /// The device is away for so long.
    Removed {
        /// Milliseconds, one hour at most; 0 brings it back.
        #[arg(long)]
        millis: u64,
    },
    /// One in so many operations finds its session gone.
    SessionLost {
        /// 0 ends it.
        #[arg(long)]
        one_in: u64,
    },
    /// A session that was idle for so long is gone.
    Idle {
        /// Milliseconds; 0 ends it.
        #[arg(long)]
        millis: u64,
    },
    /// One in so many operations is refused as too much.
    Throttled {
        /// 0 ends it.
        #[arg(long)]
        one_in: u64,
    },
    /// No session can be opened.
    OutOfSessions {
        #[arg(value_enum)]
        switch: Switch,
    },
    /// One in so many signatures is wrong.
    Garbage {
        /// How it is wrong.
        #[arg(long, value_enum)]
        kind: GarbageKind,
        /// 0 ends it.
        #[arg(long)]
        one_in: u64,
    },
    /// Take back all commands.
    Clear,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum GarbageKind {
    WrongDer,
    FlippedBit,
    Short,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(line) => {
            // Who has closed the other end does not want the line.
            drop(std::io::stdout().write_all(line.as_bytes()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            drop(std::io::stderr().write_all(format!("hufu-softtoken: {error}\n").as_bytes()));
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

/// Does what is asked; what it prints.
fn run(arguments: &Arguments) -> Result<String, Failure> {
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::from_environment()?,
    };
    let slot = arguments.slot;
    match &arguments.command {
        Command::Init { label, so_pin_file, pin_file } => {
            let (so_pin, pin) = (read_pin(so_pin_file)?, read_pin(pin_file)?);
            if label.len() > 32 {
                return Err("a label has 32 bytes at most".into());
            }
            Admin::open(config)?.init(slot, label, &so_pin, &pin)?;
            Ok(String::new())
        }
        Command::Generate(asked) => {
            let (pin, id) = (read_pin(&asked.pin_file)?, read_hex(&asked.id)?);
            let kind = match asked.kind {
                Kind::Sm2Sign => KeyKind::Sm2Sign,
                Kind::Sm2Decrypt => KeyKind::Sm2Decrypt,
                Kind::Sm4Encrypt => KeyKind::Sm4Encrypt,
                Kind::Sm4Wrap => KeyKind::Sm4Wrap,
            };
            let point = Admin::open(config)?.generate(slot, &pin, kind, &asked.label, &id)?;
            let mut line = String::new();
            for byte in point.iter().flatten() {
                write!(line, "{byte:02x}")?;
            }
            Ok(if line.is_empty() { line } else { line + "\n" })
        }
        Command::Fault { fault } => {
            let faults = Faults::open(&config.store, slot)?;
            match fault_of(fault) {
                Some(fault) => faults.set(fault),
                None => faults.clear(),
            }
            Ok(String::new())
        }
    }
}

/// The command in the library's words; `None` takes all back.
const fn fault_of(command: &FaultCommand) -> Option<Fault> {
    Some(match *command {
        FaultCommand::Latency { micros } => Fault::Latency { micros },
        FaultCommand::Hang { switch } => Fault::Hang(matches!(switch, Switch::On)),
        FaultCommand::Removed { millis } => Fault::Removed { millis },
        FaultCommand::SessionLost { one_in } => Fault::SessionLost { one_in },
        FaultCommand::Idle { millis } => Fault::Idle { millis },
        FaultCommand::Throttled { one_in } => Fault::Throttled { one_in },
        FaultCommand::OutOfSessions { switch } => {
            Fault::OutOfSessions(matches!(switch, Switch::On))
        }
        FaultCommand::Garbage { kind, one_in } => {
            let kind = match kind {
                GarbageKind::WrongDer => Garbage::WrongDer,
                GarbageKind::FlippedBit => Garbage::FlippedBit,
                GarbageKind::Short => Garbage::Short,
            };
            Fault::Garbage { kind, one_in }
        }
        FaultCommand::Clear => return None,
    })
}

/// The first line of a file; overwritten when dropped.
fn read_pin(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let bytes = std::fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    let bytes = Zeroizing::new(bytes);
    let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
    Ok(Zeroizing::new(bytes[..end.unwrap_or(bytes.len())].to_vec()))
}

fn read_hex(text: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; text.len() / 2];
    let good =
        text.len().is_multiple_of(2) && hufu_crypto::digest::decode_hex(text, &mut bytes).is_some();
    if good { Ok(bytes) } else { Err("--id takes pairs of hexadecimal digits".into()) }
}
