//! Cards as a node uses them: several with one key, agents that others run, and what is refused at
//! the start. The node's own parts run in this process; agents are processes of the binary.

use std::net::SocketAddr;
use std::process::Child;
use std::sync::Arc;

use hufu_crypto::{PublicKey, Sm3, VerifyItem, software_provider};
use hufu_hsm::config::CardConfig;
use hufu_hsm::group::Standing;
use hufu_node::admin::Admin;
use hufu_node::card_key::CardKey;
use hufu_node::cards::{CardError, Cards};
use hufu_node::keys_file::{self, NodeKey};
use hufu_node::metrics::Metrics;
use hufu_node::signing_desk::{DeskError, SigningDesk};
use hufu_runtime::clock::monotonic;
use hufu_runtime::wake::Parker;

use super::super::{new_chain, new_key};
use super::*;

const KEY: &str = "pkcs11:object=vote";

/// A token with a vote key and its key file.
fn with_key(imitation: &str) -> Desk {
    let desk = Desk::prepared(imitation, SANDBOX);
    let keygen = ["keygen", "--card", "card.toml", "--key", KEY, "--usage", "sign"];
    desk.json(&[&keygen[..], &["--out", "vote.key"]].concat());
    desk
}

/// Another card by this name, with a copy of everything that is in the first one's token.
fn copy_of(first: &Desk, name: &str, more: &str) -> Desk {
    let desk = Desk::new("native", "");
    let source = first.path("store/slot-00");
    let target = desk.path("store/slot-00");
    fs::create_dir_all(target.join("objects")).unwrap();
    let mut files = vec![PathBuf::from("token")];
    let objects = fs::read_dir(source.join("objects")).unwrap();
    files.extend(objects.map(|entry| Path::new("objects").join(entry.unwrap().file_name())));
    for file in files {
        fs::copy(source.join(&file), target.join(&file)).unwrap();
    }
    desk.write_card(&format!("{more}\n{SANDBOX}"));
    let text = fs::read_to_string(desk.path("card.toml")).unwrap();
    desk.write("card.toml", &text.replace("card-0", name));
    desk
}

fn add(key_file: &str) -> [&str; 7] {
    ["add-card", "--card", "card.toml", "--key", KEY, "--key-file", key_file]
}

fn key_of(path: &Path) -> CardKey {
    match keys_file::open(path).unwrap() {
        NodeKey::Card(key) => key,
        _ => unreachable!("{} is a key in software", path.display()),
    }
}

fn cards() -> Cards {
    Cards::with_program(PathBuf::from(env!("CARGO_BIN_EXE_hufu")))
}

fn refused(key: &CardKey) -> CardError {
    match SigningDesk::card(&mut cards(), key).err().unwrap() {
        DeskError::Card(error) => error,
        other => unreachable!("{other}"),
    }
}

/// One signature as the sign tile asks for it, verified.
fn sign(desk: &mut SigningDesk, number: u64) -> Result<Duration, DeskError> {
    let public: PublicKey = *desk.public_key();
    let digest = Sm3::of(&[b"desk", &number.to_le_bytes()]);
    let started = monotonic();
    desk.submit(&digest, started)?;
    let mut parker = Parker::new().unwrap();
    let signature = loop {
        match desk.poll() {
            Some(result) => break result?,
            None => parker.park(desk.deadline(), |fds| desk.poll_fds(fds)).unwrap(),
        }
    };
    let item = VerifyItem { key: &public, digest, signature: &signature };
    assert_eq!(software_provider().verifier.verify(item), hufu_crypto::Verdict::Valid);
    Ok(monotonic().duration_since(started))
}

/// Signs until a card stands where it should; nothing may fail meanwhile.
fn sign_until(desk: &mut SigningDesk, place: usize, standing: Standing) {
    let end = deadline_in(Duration::from_secs(60));
    let counts = desk.card_counts();
    let mut number = 1_000_000;
    while counts[place].standing() != standing {
        assert!(monotonic() < end, "{} never was {standing:?}", counts[place].name());
        number += 1;
        sign(desk, number).unwrap();
    }
}

/// Every signature is there within the deadline while one of two cards goes and comes back.
#[test]
fn two_cards_with_one_key_stand_in_for_each_other() {
    let first = with_key("native");
    let second = copy_of(&first, "card-1", "");
    let key_file = first.path("vote.key");
    let key_text = key_file.to_str().unwrap();
    let added = second.json(&add(key_text));
    assert_eq!((&added["card"], &added["cards"]), (&"card-1".into(), &2.into()));
    let (exit, said) = second.refused(&add(key_text));
    assert!(exit == 1 && said.contains("comes twice"), "{said}");
    let stranger = with_key("native");
    let before = fs::read(&key_file).unwrap();
    let (exit, said) = stranger.refused(&add(key_text));
    assert!(exit == 1 && said.contains("not ") && said.contains("copy of the first"), "{said}");
    assert_eq!(fs::read(&key_file).unwrap(), before, "nothing is written");

    let key = key_of(&key_file);
    let mut cards = cards();
    let mut desk = SigningDesk::card(&mut cards, &key).unwrap();
    for number in 0..100 {
        sign(&mut desk, number).unwrap();
    }
    let counts = desk.card_counts();
    assert!(counts.iter().all(|card| card.signed_total() == 50), "each in its turn: {counts:?}");
    let faults = Faults::open(&first.path("store"), 0).unwrap();
    faults.set(Fault::Removed { millis: 600_000 });
    let deadline = cards.all()[0].config().deadline;
    let slowest = (100..500).map(|number| sign(&mut desk, number).unwrap()).max().unwrap();
    assert!(slowest < deadline, "{slowest:?}");
    sign_until(&mut desk, 0, Standing::Away);
    assert_eq!(counts[1].standing(), Standing::Serving);

    let metrics = Arc::new(Metrics::default());
    metrics.publish_cards(cards.all().to_vec(), desk.card_counts());
    let text = metrics.render();
    assert!(
        text.contains("hufu_sign_card_standing{card=\"card-0\",standing=\"away\"} 1"),
        "{text}"
    );
    assert!(text.contains("hufu_card_agent_state{card=\"card-1\",state=\"serving\"} 1"), "{text}");
    faults.clear();
    sign_until(&mut desk, 0, Standing::Serving);
    let lost = "hufu_card_tokens_lost_total{card=\"card-0\"} ";
    let is_told = |text: &str| {
        let counts = text.lines().filter_map(|line| line.strip_prefix(lost));
        counts.into_iter().any(|count| count != "0")
    };
    let end = deadline_in(Duration::from_secs(60));
    // The agent tells about once a second.
    while !is_told(&metrics.render()) {
        assert!(monotonic() < end, "{}", metrics.render());
        sign(&mut desk, 7).unwrap();
    }
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let admin = Admin::start(address, metrics, Arc::default(), Arc::default()).unwrap();
    let address = admin.address().to_string();
    let live = ["status", "--card", "card.toml", "--admin", &address];
    let said = second.json(&live).to_string();
    assert!(said.contains("\"hufu_card_sessions\"") && !said.contains("CKR_"), "{said}");
    let said = stdout(&first.run(&live));
    assert!(said.contains("tokens_lost_total = 1") && said.contains("(CKR_"), "{said}");
}

#[test]
fn a_key_file_with_a_card_that_holds_another_key_starts_no_node() {
    let (first, stranger) = (with_key("native"), with_key("native"));
    let text = fs::read_to_string(stranger.path("card.toml")).unwrap();
    stranger.write("card.toml", &text.replace("card-0", "card-1"));
    let card = stranger.path("card.toml");
    let text = fs::read_to_string(first.path("vote.key")).unwrap();
    let copy = format!("\n[[copy]]\ncard = {card:?}\nkey = \"{KEY}\"\n");
    first.write("both.key", &(text + &copy));
    let error = refused(&key_of(&first.path("both.key")));
    assert!(matches!(&error, CardError::OtherKey { card, .. } if card == "card-1"), "{error}");
    assert!(!error.may_pass());
    // The same of two cards with one name.
    stranger.write_card(SANDBOX);
    let error = refused(&key_of(&first.path("both.key")));
    assert!(matches!(&error, CardError::SameName { name, .. } if name == "card-0"), "{error}");
}

/// A node of a new chain that is to sign with this key file: its exit code and what it says.
fn run_node(desk: &Desk, key: &Path) -> (i32, String) {
    let folder = folder();
    let (public, _) = new_chain(folder.path());
    // The node is a validator; what is wrong is its card alone.
    let genesis = folder.path().join("genesis.toml");
    let text = fs::read_to_string(&genesis).unwrap();
    fs::write(&genesis, text.replace(&public, &key_of(key).public.to_string())).unwrap();
    let text = format!(
        "[node]\nname = \"node-0\"\ndata_dir = \"data\"\ngenesis = \"genesis.toml\"\n\
         key = {key:?}\n[client]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [placement]\ncores = \"none\"\n"
    );
    fs::write(folder.path().join("hufu.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(folder.path()).args(["node", "run"]).stdin(Stdio::null());
    command.env("HUFU_SOFTTOKEN_CONF", desk.path("softtoken.toml"));
    let output = command.output().unwrap();
    (code(&output), stderr(&output))
}

#[test]
fn a_node_refuses_another_token_and_another_key_for_good() {
    let desk = with_key("native");
    let good = fs::read_to_string(desk.path("vote.key")).unwrap();
    let public = key_of(&desk.path("vote.key")).public.to_string();
    let other = new_key(desk.folder.path(), "other.pem").0;
    let cases = [
        ("token.key", good.replace("pkcs11:", "pkcs11:token=other;"), "on token \"other\""),
        ("other.key", good.replace(&public, &other), "the key file says"),
        ("nobody.key", good.replace("object=vote", "object=nobody"), "no key with"),
    ];
    for mode in ["agent", "in-process"] {
        let sandbox = if mode == "agent" { SANDBOX } else { "" };
        desk.write_card(&format!("mode = \"{mode}\"\n{sandbox}"));
        for (name, text, reason) in &cases {
            desk.write(name, text);
            let (exit, said) = run_node(&desk, &desk.path(name));
            assert!(exit == 78 && said.contains(reason), "{mode} {name}: {exit} {said}");
        }
    }
    desk.write_card(SANDBOX);
    let token = refused(&key_of(&desk.path("token.key")));
    assert!(matches!(token, CardError::OtherToken { .. }) && !token.may_pass(), "{token}");
    let other = refused(&key_of(&desk.path("other.key")));
    assert!(matches!(other, CardError::OtherKey { .. }) && !other.may_pass(), "{other}");
    // The right names are let in by the same way.
    desk.write("good.key", &good.replace("pkcs11:", "pkcs11:token=hufu;"));
    let mut signs = SigningDesk::card(&mut cards(), &key_of(&desk.path("good.key"))).unwrap();
    sign(&mut signs, 1).unwrap();
}

#[test]
fn a_token_that_is_away_when_the_node_starts_joins_when_it_is_there() {
    let first = with_key("native");
    let second = copy_of(&first, "card-1", "");
    let key_file = first.path("vote.key");
    second.json(&add(key_file.to_str().unwrap()));
    let faults = Faults::open(&first.path("store"), 0).unwrap();
    faults.set(Fault::Removed { millis: 600_000 });
    let key = key_of(&key_file);
    let mut desk = SigningDesk::card(&mut cards(), &key).unwrap();
    assert_eq!(desk.card_counts()[0].standing(), Standing::Away);
    sign(&mut desk, 1).unwrap();
    faults.clear();
    sign_until(&mut desk, 0, Standing::Serving);
    drop(desk);
    // Alone it is waited for as well, if it was there before.
    faults.set(Fault::Removed { millis: 3_000 });
    let alone = CardKey { copies: Vec::new(), ..key };
    sign(&mut SigningDesk::card(&mut cards(), &alone).unwrap(), 2).unwrap();
    // One that never was is a mistake in the card's file, and keeps the node from starting.
    fs::remove_file(CardConfig::load(&alone.card).unwrap().identity_file).unwrap();
    faults.set(Fault::Removed { millis: 600_000 });
    let error = refused(&alone);
    assert!(matches!(error, CardError::Card(Error::TokenMissing { .. })), "{error}");
}

/// The agent of a card's file, run by somebody else than the node.
struct Listening(Child);

impl Listening {
    fn start(desk: &Desk, node_user: u32) -> Self {
        let user = node_user.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.args(["--parent", &std::process::id().to_string(), "hsm", "agent"]);
        command.args(["--card", "card.toml", "--listen", "agent.sock", "--node-user", &user]);
        command.current_dir(desk.folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
        command.env("HUFU_SOFTTOKEN_CONF", desk.path("softtoken.toml"));
        Self(command.spawn().unwrap())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_card_joins_when_the_agent_that_others_run_is_there() {
    let first = with_key("native");
    let user = fs::metadata(first.folder.path()).unwrap().uid();
    let mode = format!("mode = \"connect\"\nsocket = \"agent.sock\"\nsocket_user = {user}");
    let second = copy_of(&first, "card-1", &mode);
    let key_file = first.path("vote.key");
    second.json(&add(key_file.to_str().unwrap()));
    let mut cards = cards();
    let mut desk = SigningDesk::card(&mut cards, &key_of(&key_file)).unwrap();
    let counts = desk.card_counts();
    assert_eq!(counts[1].standing(), Standing::Away);
    for number in 0..20 {
        sign(&mut desk, number).unwrap();
    }
    assert_eq!((counts[0].signed_total(), counts[1].signed_total()), (20, 0));
    let agent_of = |cards: &Cards| cards.all()[1].status().agent.unwrap();
    let failure = agent_of(&cards).last_failure.unwrap();
    assert!(failure.contains("agent.sock cannot be reached"), "{failure}");

    // One that serves other nodes turns this one away, and says so.
    let foreign = Listening::start(&second, user + 1);
    let end = deadline_in(Duration::from_secs(60));
    loop {
        let failure = agent_of(&cards).last_failure.unwrap();
        if failure.contains(&format!("it serves nodes of user {}", user + 1)) {
            break;
        }
        assert!(monotonic() < end, "{failure}");
        sign(&mut desk, 21).unwrap();
    }
    drop(foreign);
    for _ in 0..2 {
        let agent = Listening::start(&second, user);
        sign_until(&mut desk, 1, Standing::Serving);
        drop(agent);
        sign_until(&mut desk, 1, Standing::Away);
    }
    drop(desk);
}
