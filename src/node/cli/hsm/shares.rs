//! `hufu hsm export-shares|import-shares`: a cloned key leaves a card in shares, and comes into
//! another one.

use std::path::{Path, PathBuf};

use clap::Args;
use hufu_crypto::{PublicKey, SoftwareSigner};
use hufu_hsm::card::KeyClass;
use hufu_hsm::cloned::{
    Ceremony, CloneError, Custodian, FILE_BYTES_MAX, Opener, Order, ShareFile, WrappedKey,
};
use hufu_hsm::pin::Pin;
use hufu_hsm::uri::KeyUri;
use serde_json::json;

use super::super::CliError;
use super::super::audit::AuditTo;
use super::CardFile;
use super::card::{KnownCard, check_token, pin_of, public_key_text, with_public_key};
use super::error::fault;
use super::keygen::{Class, KeyUsage, refuse_existing, write_key_file};
use crate::output::Output;
use crate::{kernels, keys_file};

/// The wrapped key's file in the folder of an export.
const WRAPPED_FILE: &str = "wrapped-key.toml";

#[derive(Debug, Args)]
#[command(
    after_help = "The key must have been made with --class cloned. It leaves the card wrapped, and \
    what unwraps it is split: any --needed of the shares, with the wrapped key, give the key; \
    fewer give nothing. The security officer's PIN is needed beside the user's. The copy is \
    brought in again and tried before this says that it succeeded. Run it on a machine that does \
    nothing else, and hand each share to its custodian at once. The vendor's library runs in \
    this process."
)]
pub(in crate::cli) struct ExportShares {
    #[command(flatten)]
    card: CardFile,
    /// The key: pkcs11:object=LABEL, pkcs11:id=%01, or pkcs11:x-index=N.
    #[arg(long, value_name = "URI", value_parser = super::key)]
    key: KeyUri,
    /// What it is for.
    #[arg(long)]
    usage: KeyUsage,
    /// File with the security officer's PIN.
    #[arg(long, value_name = "FILE")]
    so_pin_file: PathBuf,
    /// Shares that give the key back, 2 at least.
    #[arg(long, value_name = "COUNT")]
    needed: u8,
    /// Public key (PEM) of a custodian; once for each of them.
    #[arg(long, value_name = "FILE")]
    custodian: Vec<PathBuf>,
    /// File of mode 0600 with the passphrase of a custodian; once for each of them.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Vec<PathBuf>,
    /// Folder to make, with the wrapped key and one file for each share.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    audit: AuditTo,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Give each share with what opens it, in the same order: --share A --opens-with \
    A's key or passphrase file, --share B --opens-with B's. The key that came in is compared with \
    the one that left, and tried, before this says that it succeeded; what is not that key is \
    destroyed. The vendor's library runs in this process."
)]
pub(in crate::cli) struct ImportShares {
    #[command(flatten)]
    card: CardFile,
    /// The key's name on this card: pkcs11:object=LABEL, pkcs11:id=%01, or pkcs11:x-index=N.
    #[arg(long, value_name = "URI", value_parser = super::key)]
    key: KeyUri,
    /// The wrapped key.
    #[arg(long, value_name = "FILE")]
    wrapped: PathBuf,
    /// A share; once for each of them.
    #[arg(long, value_name = "FILE", required = true)]
    share: Vec<PathBuf>,
    /// Its custodian's private key (PEM), or the file with the passphrase; once for each share.
    #[arg(long, value_name = "FILE", required = true)]
    opens_with: Vec<PathBuf>,
    /// How the key may leave this card.
    #[arg(long, default_value = "cloned")]
    class: Class,
    /// Key file to make for a pair, as `hufu hsm keygen --out` does.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    audit: AuditTo,
}

/// What opens a share, kept as long as it is needed.
enum Held {
    Key(Box<SoftwareSigner>),
    Passphrase(Pin),
}

pub(super) fn export(export: &ExportShares, output: Output) -> Result<(), CliError> {
    if export.out.exists() {
        return Err(CliError::file(
            "it exists already",
            &export.out,
            "name a folder that does not exist: an export is never mixed with another",
        ));
    }
    let officer = pin_of(&export.so_pin_file)?;
    let keys: Vec<PublicKey> =
        export.custodian.iter().map(|path| public_key_of(path)).collect::<Result<_, _>>()?;
    let passphrases: Vec<Pin> =
        export.passphrase_file.iter().map(|path| pin_of(path)).collect::<Result<_, _>>()?;
    let custodians: Vec<Custodian<'_>> = keys
        .iter()
        .map(|key| Custodian::Key(*key))
        .chain(passphrases.iter().map(Custodian::Passphrase))
        .collect();
    let order = Order {
        key: &export.key.key,
        usage: export.usage.into(),
        officer: &officer,
        needed: export.needed,
        custodians: &custodians,
    };
    let leave = || {
        let (card, exported) =
            with_ceremony(&export.card.path, &export.key, |_, ceremony| ceremony.export(&order))?;
        exported.map_err(|error| told(&error, &card))
    };
    let name = export.key.to_string();
    let (wrapped, shares) =
        export.audit.record("key.exported", name, leave, |(wrapped, _)| facts_of(wrapped))?;
    let files = write(&export.out, &wrapped, &shares)?;
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let facts = &wrapped.facts;
    let value = json!({
        "export": facts.export.to_string(), "needed": facts.needed, "count": facts.count,
        "files": names,
    });
    let text = format!(
        "{}\nany {} of the {} shares and {WRAPPED_FILE} give the key with {}: hand each share to \
         its custodian and leave none here",
        names.join("\n"),
        facts.needed,
        facts.count,
        facts.key
    );
    output.result(&with_public_key(value, facts.public.as_ref()), text);
    Ok(())
}

/// What an audit says of a key that leaves or comes in: nothing of the shares themselves.
fn facts_of(wrapped: &WrappedKey) -> Vec<(&'static str, String)> {
    let facts = &wrapped.facts;
    let mut said = vec![
        ("export", facts.export.to_string()),
        ("needed", facts.needed.to_string()),
        ("count", facts.count.to_string()),
    ];
    said.extend(facts.public.as_ref().map(|public| ("address", public.address().to_string())));
    said
}

pub(super) fn import(import: &ImportShares, output: Output) -> Result<(), CliError> {
    if import.share.len() != import.opens_with.len() {
        return Err(CliError::usage(
            format!(
                "{} shares, {} files to open them",
                import.share.len(),
                import.opens_with.len()
            ),
            "give --opens-with once for each --share, in the same order",
        ));
    }
    if let Some(out) = import.out.as_ref().filter(|out| out.exists()) {
        return Err(CliError::file("it exists already", out, "choose another name"));
    }
    let wrapped = WrappedKey::parse(&text_of(&import.wrapped)?)
        .map_err(|error| told(&error, import.wrapped.display()))?;
    let mut opened = Vec::with_capacity(import.share.len());
    for (path, opener) in import.share.iter().zip(&import.opens_with) {
        let share = ShareFile::parse(&text_of(path)?);
        let share = share.map_err(|error| told(&error, path.display()))?;
        let held = if share.wants_passphrase() {
            Held::Passphrase(pin_of(opener)?)
        } else {
            let key = keys_file::load(opener).map_err(|error| CliError::key(&error, opener))?;
            Held::Key(Box::new(key))
        };
        opened.push((share, held));
    }
    let shares: Vec<(&ShareFile, Opener<'_>)> = opened
        .iter()
        .map(|(share, held)| {
            let opener = match held {
                Held::Key(signer) => Opener::Key(signer),
                Held::Passphrase(passphrase) => Opener::Passphrase(passphrase),
            };
            (share, opener)
        })
        .collect();
    let class = KeyClass::from(import.class);
    let bring_in = || {
        let (place, found) = with_ceremony(&import.card.path, &import.key, |card, ceremony| {
            let (session, _) = card.log_in()?;
            refuse_existing(&session, &card.profile, &import.key.key, card)?;
            session.logout().map_err(|error| card.fault(&error))?;
            drop(session);
            let imported = ceremony.import(&wrapped, &shares, &import.key.key, class);
            Ok::<_, CliError>(imported)
        })?;
        found?.map_err(|error| told(&error, &place))
    };
    let name = import.key.to_string();
    let found = import.audit.record("key.imported", name, bring_in, |_| facts_of(&wrapped))?;
    if let (Some(out), Some(public)) = (&import.out, &found.public) {
        write_key_file(out, &import.card.path, &import.key, public)?;
    }
    let key = import.key.key.to_string();
    let value = json!({ "key": key, "export": wrapped.facts.export.to_string() });
    let text = match &found.public {
        Some(public) => public_key_text(public),
        None => format!("the key with {key} unwraps what it wrapped before it left"),
    };
    output.result(&with_public_key(value, found.public.as_ref()), text);
    Ok(())
}

/// The card's file as a place, and what `body` did in a session in which nobody is logged in.
fn with_ceremony<T>(
    path: &Path,
    key: &KeyUri,
    body: impl FnOnce(&KnownCard, &Ceremony<'_>) -> T,
) -> Result<(String, T), CliError> {
    let card = KnownCard::open(path)?;
    check_token(key, &card.token.identity)?;
    let pin = card.config.pin.read().map_err(|error| card.fault(&error))?;
    let session = card.token.session(Some(&card.profile)).map_err(|error| card.fault(&error))?;
    let verifier = kernels::provider().verifier;
    let ceremony =
        Ceremony { session: &session, profile: &card.profile, pin: &pin, verifier: &*verifier };
    let done = body(&card, &ceremony);
    Ok((path.display().to_string(), done))
}

/// Writes all files of an export into a folder that only its owner may enter.
fn write(
    folder: &Path,
    wrapped: &WrappedKey,
    shares: &[ShareFile],
) -> Result<Vec<PathBuf>, CliError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|cause| CliError::file(cause, folder, "name a folder that can be made"))?;
    let mut files = Vec::with_capacity(shares.len() + 1);
    let mut write_one = |name: String, text: Result<String, CloneError>| -> Result<(), CliError> {
        let path = folder.join(name);
        let text = text.map_err(|error| told(&error, path.display()))?;
        let written = keys_file::write_new(&path, text.as_bytes());
        written.map_err(|error| CliError::key(&error, &path))?;
        files.push(path);
        Ok(())
    };
    write_one(WRAPPED_FILE.to_owned(), wrapped.to_text())?;
    for share in shares {
        write_one(format!("share-{}.toml", share.index), share.to_text())?;
    }
    Ok(files)
}

/// The text of a small file, which need not be secret.
fn text_of(path: &Path) -> Result<String, CliError> {
    use std::io::Read as _;
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        let most = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
        std::fs::File::open(path)?.take(most).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|cause| CliError::file(cause, path, "name a file of `hufu hsm export-shares`"))
}

fn public_key_of(path: &Path) -> Result<PublicKey, CliError> {
    let text = text_of(path)?;
    PublicKey::from_pem(&text).map_err(|cause| {
        CliError::file(cause, path, "name the custodian's public key in PEM (SubjectPublicKeyInfo)")
    })
}

/// What an operator does about it.
fn told(error: &CloneError, place: impl std::fmt::Display) -> CliError {
    let remedy = match error {
        CloneError::Card(error) => return fault(error, place),
        CloneError::Crypto(_) => "try again; if it stays, this host gives no entropy",
        CloneError::SameCustodian { .. } => "name every custodian once",
        CloneError::Shares(_) | CloneError::Custodians { .. } => {
            "give as many different shares as are needed, 2 at least"
        }
        CloneError::Malformed { .. } | CloneError::Changed => {
            "take an unchanged copy of the file that `hufu hsm export-shares` made"
        }
        CloneError::SingleCard { .. } | CloneError::Unguarded { .. } => {
            "make a key with `hufu hsm keygen --class cloned`; the class of a key never changes"
        }
        CloneError::NoMechanism { .. } => {
            "look in the vendor's manual for a mechanism that wraps private keys, and name it in \
             the profile (key_wrap)"
        }
        CloneError::Foreign { .. } => "bring the shares of this very export",
        CloneError::Sealed { .. } => "give each share with its own custodian's key or passphrase",
        CloneError::NotGenuine { .. } => {
            "find out who made it; go on with another custodian's share"
        }
        CloneError::OtherKey { .. } => {
            "the two cards wrap keys in different ways: use a card of the same vendor"
        }
    };
    CliError::failed(error, place, remedy)
}
