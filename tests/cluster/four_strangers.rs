//! Who is no validator at the peer ports of four: turned away, counted, and without effect.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use hufu_crypto::{Signer, SoftwareSigner, software_provider};
use hufu_network::channel::PlainChannel;
use hufu_network::peer::{
    LinkConfig, LinkEvent, LinkIdentity, LinkSetup, PeerCode, PeerKeys, PeerLink,
};
use hufu_node::genesis_file;
use hufu_runtime::clock::monotonic;
use hufu_types::genesis::ValidatorSet;
use hufu_types::{Address, Genesis};

use crate::chain::make_keys;
use crate::four::{COUNT, Four, configure, free_ports};
use crate::load::Loader;
use crate::node::{PATIENCE, TestNode, wait_until};
use crate::wire::Random;

/// Receipts beside strangers, count.
const SOME: usize = 200;

/// Exit code of faults that no restart mends (design.md 6).
const EXIT_CONFIGURATION: i32 = 78;

/// Connections that speak garbage, count.
const GARBAGE_COUNT: u64 = 24;

fn validators(genesis: &Genesis) -> PeerKeys {
    genesis.validators.iter().map(|(address, one)| (*address, one.link_key)).collect()
}

/// The validator with the largest address, which everybody else dials.
fn last(four: &Four) -> (usize, Address) {
    let (address, validator) =
        four.chain.genesis.validators.iter().max_by_key(|one| one.0).unwrap();
    (validator.name.strip_prefix("node-").unwrap().parse().unwrap(), *address)
}

/// Speaks the protocol to a node as `identity`, proven with `signer`; returns why the node ends it.
fn introduce(
    socket: SocketAddr,
    whom: Address,
    identity: LinkIdentity,
    signer: &SoftwareSigner,
    peers: PeerKeys,
) -> String {
    let verifier = software_provider().verifier;
    let config = LinkConfig::default();
    let setup = LinkSetup { config, identity, peers: Arc::new(peers), verifier };
    let now = || monotonic().as_nanos();
    let mut link = PeerLink::dial(&setup, whom, [7; 32], Box::new(PlainChannel::new()), now());
    let mut stream = TcpStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4_096];
    loop {
        let bytes = link.transmit().to_vec();
        stream.write_all(&bytes).unwrap();
        link.sent(bytes.len());
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the node has closed the connection without a word");
        assert_eq!(link.receive(&buffer[..count], now()), count);
        while let Some(event) = link.next_event(now()) {
            match event {
                LinkEvent::Sign(digest) => link.prove(&signer.sign(&digest).unwrap(), now()),
                LinkEvent::Closed(PeerCode::Farewell, text) => return text,
                other => panic!("a stranger was told {other:?}"),
            }
        }
    }
}

fn ended(four: &Four, index: usize, code: PeerCode) -> u64 {
    four.metrics(index).get(&format!("hufu_peer_links_ended_total{{code=\"{code}\"}}"))
}

#[test]
fn strangers_open_no_link_and_have_no_effect() {
    let four = Four::new("strangers").open();
    let loaders = four.load(&[0, 1, 2, 3]);
    for stranger in [introduce_a_valid_key, run_a_fifth_process, speak_garbage] {
        stranger(&four);
        four.record.wait_for_more(SOME);
        for index in 0..COUNT {
            let links = four.metrics(index).get("hufu_peer_links");
            assert_eq!(links, 3, "the links between validators stay");
        }
    }
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

/// A key that is no validator's, under its own name, under a validator's, and of another chain.
fn introduce_a_valid_key(four: &Four) {
    let (place, whom) = last(four);
    let (socket, chain_id) = (four.peers[place], four.chain.id());
    let peers = validators(&four.chain.genesis);
    let signer = std::iter::repeat_with(|| SoftwareSigner::generate().unwrap())
        .find(|signer| signer.public_key().address() < whom)
        .unwrap();
    let key = *signer.public_key();
    let before = [PeerCode::UnknownPeer, PeerCode::ProofInvalid, PeerCode::WrongChain]
        .map(|code| (code, ended(four, place, code)));

    // Under its own name it is unknown; under a validator's name its proof is not good; and who
    // comes from another chain is not even asked for one.
    let own = LinkIdentity { chain_id, address: key.address(), key };
    let said = introduce(socket, whom, own, &signer, peers.clone());
    assert!(said.contains("unknown_peer"), "{said}");
    let stolen = *peers.keys().next().unwrap();
    let claimed = LinkIdentity { chain_id, address: stolen, key };
    let said = introduce(socket, whom, claimed, &signer, peers.clone());
    assert!(said.contains("proof_invalid"), "{said}");
    let elsewhere = LinkIdentity { chain_id: hufu_types::ChainId::ZERO, ..claimed };
    let said = introduce(socket, whom, elsewhere, &signer, peers);
    assert!(said.contains("wrong_chain"), "{said}");
    for (code, count) in before {
        wait_until("the count of the ended link", || ended(four, place, code) == count + 1);
    }
}

/// The binary itself, with keys that the validators do not know.
fn run_a_fifth_process(four: &Four) {
    let (place, whom) = last(four);
    let chain = four.chain.path();
    let others: Vec<_> =
        (0..COUNT).map(|index| (format!("node-{index}"), four.peers[index])).collect();
    let own = ("node-4".to_owned(), free_ports(1)[0]);

    // With the chain's genesis it is no validator and does not start.
    let folder = chain.join("node-4");
    fs::create_dir(&folder).unwrap();
    let validator = std::iter::repeat_with(|| {
        for file in ["vote.pem", "link.pem", "audit.pem", "data.key"] {
            drop(fs::remove_file(folder.join(file)));
        }
        make_keys(&folder, "node-4")
    });
    let validator = validator.into_iter().find(|one| one.key.address() < whom).unwrap();
    let data = folder.join("data");
    let config = configure(&folder, &data, &own, &others);
    let mut fifth = TestNode::new(config.clone(), data.clone(), &folder);
    let (status, said) = fifth.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");

    // With a genesis that names it as well it starts, dials, and is of another chain.
    let mut genesis = four.chain.genesis.clone();
    let known = genesis.validators.iter().map(|(_, one)| one.clone());
    genesis.validators = ValidatorSet::new(known.chain([validator]).collect()).unwrap();
    fs::write(folder.join("genesis.toml"), genesis_file::write(&genesis)).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("../genesis.toml", "genesis.toml")).unwrap();
    let before = ended(four, place, PeerCode::WrongChain);
    fifth.start();
    wait_until("the refusal of the fifth", || {
        ended(four, place, PeerCode::WrongChain) >= before + 2
    });
}

/// Random bytes, some of which begin like a link, on connections that end or stay.
fn speak_garbage(four: &Four) {
    let mut random = Random::from_environment();
    let ends = |four: &Four| four.metrics(1).sum("hufu_peer_links_ended_total");
    let before = ends(four);
    let mut held = Vec::new();
    for number in 0..GARBAGE_COUNT {
        let mut stream = TcpStream::connect(four.peers[1]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let size = 1 + random.below(100_000);
        let mut bytes: Vec<u8> = (0..size).map(|_| random.next().to_le_bytes()[0]).collect();
        // Some begin like a link.
        if number % 3 == 0 {
            bytes.splice(..0, hufu_network::peer::PEER_MAGIC);
        }
        // The node may end it before all is sent.
        drop(stream.write_all(&bytes));
        // One in four only stays there and says nothing more.
        if number % 4 == 0 {
            held.push(stream);
        } else {
            let mut answer = Vec::new();
            drop(stream.shutdown(std::net::Shutdown::Write));
            drop(stream.read_to_end(&mut answer));
        }
    }
    wait_until("the count of every connection", || ends(four) >= before + GARBAGE_COUNT);
    drop(held);
}
