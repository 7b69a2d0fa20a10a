//! The bytes of every type that is stored, sent or signed, pinned by size and SM3.
//!
//! A difference means that a node of this build no longer understands one of the last. If that is
//! wanted, the format version goes up and the new table, which the failing test prints, is put
//! here: editing the table is the approval.

#[cfg(test)]
mod golden {
    use std::collections::BTreeMap;

    use hufu_crypto::{Signer as _, Sm3, software_provider};
    use hufu_ledger::{
        Account, Asset, Holding, Mandate, Nonce, StateChanges, StateKey, StateTree, StateValue,
        Write,
    };
    use hufu_tests::accounts::{self, Accounts};
    use hufu_tests::examples::{self, Chain};
    use hufu_types::{Address, AssetCode, ChainId, Strength};
    use zerocopy::IntoBytes as _;

    /// Name, size in bytes, SM3 of the bytes.
    #[rustfmt::skip]
    const TABLE: &[(&str, usize, &str)] = &[
        ("public_key", 64, "527b7972bbd38ea5fd9c2d6b38b8de2a4c0760ce288e5d88bf4d6c6b3b2ce0a0"),
        ("address", 20, "18ad0624c7d31dc34d7acf666b9408727332218a986c41da08f653445f38ee8e"),
        ("genesis", 496, "bdb7f0e652861bd2b9b83daee36d458343afc0219eb8e129123bdb718d8bb86e"),
        ("chain_id", 32, "a1243789b6ff34707db225115d6cddf1195f99747ebcc3077d695065baad5c87"),
        ("validators_digest", 32, "bccfef7f4f5d0c5b322a4328f69a780f089c17bc51f51b02ee5019d0d665e578"),
        ("transaction/open_account", 216, "9e79730ce1434dfa89d639bec570033a2bcb0130e7a4adb24c03b8a635bf02af"),
        ("transaction/close_account", 216, "44e233a60b94cc023f057092bf884aaef83903e261f31ce365a48bdd7608ab45"),
        ("transaction/create_asset", 252, "415e20a4ae72d6658f272c710920fa25e239e86413446f8b50ccd0e1d7dadacc"),
        ("transaction/issue_asset", 248, "8922c83382c764acbcda31a645406d60ec4cc49d334e48a5303c23d91ea02548"),
        ("transaction/redeem_asset", 248, "ea92c3c7b25d7c81e7cf63c04f543de86ac1634864f6271c9b26c21967169534"),
        ("transaction/transfer", 268, "f383ac267040e45e1d2b66d98d7a9d63c812cb7ff19260652e1507575b26a2e8"),
        ("transaction/settle", 344, "b62537e7bd97d369b33353ddc9e5347d198629878c09ed31aca7d7b0e795c3d6"),
        ("transaction/grant_mandate", 256, "9fb59fb518b7eb0e71bb808faf4048072e7fcf5f543cdf76fcc4ba83ba4e8bfe"),
        ("transaction/revoke_mandate", 232, "c1dffdd6110cb6dba2ab494a0445d95028b4ef0762988385bc4bb394b05c38d7"),
        ("transaction/notarise", 247, "b1b0ad2ca7968dfa842bfaa8df4ba4365e776bc05cc6d3cede3bcf0078b8f21f"),
        ("transaction/freeze_holding", 232, "e0f604f788e32d44c33fa49243a86a98350d9f209c40f64c4af5e218e30d2c66"),
        ("transaction/unfreeze_holding", 232, "bc4eb27f625945795d42a04b78d5e9a361bc6d07a2d136e0404b62d0751c1499"),
        ("transaction/all", 879, "f69760e6e9583d349a059d0042de37c1746d96f66f5bddebff313df81b774843"),
        ("batch", 776, "1f38e0eaf22c72202952a0c8583b9ffe953b98108338dfa0e88c75665d3aee75"),
        ("batch_digest", 32, "5fbb9ed9998a4b1c1c42ec5b1c8c3d63aa0ef513b04c3e6d9184f4b877a87f5b"),
        ("tx_id", 32, "d3402215b39d63e4a17b9075eef5bac7d98ae6b80ca83ad71993fe56e3004595"),
        ("tx_digest", 32, "f3c32fa8bfd2d09f2dbfdc597f34a809b0ad3df561ad3eeca38b00bef54bd37a"),
        ("block/1", 332, "6f8c52b6e5dd529a25ad10e7b7764eb6035e23fc4248808fd61167bf13fe3e59"),
        ("block_header/1", 268, "f4a742ed4209fbdf20ca3739e5d75e92879afa889bcc64ae51ea708ddc93732d"),
        ("block_digest/1", 32, "17858222201cde4da3ff7296156faa0af6b6b53cb20ab4fad8616298d9eca3e5"),
        ("certificate/1", 220, "2b7854fb06dfe466cb66e5b6f7f9ab6621784e0cd48f158c57905a038060485a"),
        ("block/2", 300, "4fb8775fdc85dc74a3f63fdbe9dd1b5e7cb11aec61f7b54c529a4ce7833342a0"),
        ("block_header/2", 268, "f2d9417562094a1d74f8231a5e83f0ab2178ab489f022aefa54a227b246e3b7d"),
        ("block_digest/2", 32, "4608687490eb133c43eab2458dc1ae1458883efd99cb6dabaf3ed9db0cb654d3"),
        ("certificate/2", 220, "8065596696e319d3f0db646720f441b6db24b64e44bd133f92b162f8122d8787"),
        ("block/3", 268, "0b7a213b79f8cce4727b67bdec381adc27c45324882dae0e5b1ac1d16d45650c"),
        ("block_header/3", 268, "0b7a213b79f8cce4727b67bdec381adc27c45324882dae0e5b1ac1d16d45650c"),
        ("block_digest/3", 32, "497f93ea0370a78182ae1bbd6a0048ba16c3594f27a5d3893fb6ce6c5fb6f29a"),
        ("certificate/3", 220, "8abe23e9782546af5c062de7a9428ff7b647f1c00ba33b2d8b848aba351156af"),
        ("vote", 104, "821a4e8f7356cff82e76eccb94af014a79fa09f039d2f3f8357e4a00940d474a"),
        ("signed_vote", 168, "ca0d06f46d5f3c09587223020527f61a80e68af88e500eb8352e440da2e1cb51"),
        ("signed_vote/nil", 168, "e9eafbca077497cae67a59413de8afdddad1eb4f703248f745ee1c53d6b14ac3"),
        ("proposal", 112, "f92d720b209d9ba1f6d1710fa99c4b4a18d303cd24d7210d44563dd60d9a7a09"),
        ("signed_proposal", 176, "4a5d4800b871e47b9f55e06f7c95a547ec627ef7dae934a505bdc02005f653ce"),
        ("signed_proposal/locked", 176, "27f085dbe615074bb0446dcdca33fe7b35aff2fbf0ad0209ddde1cb64dcd7960"),
        ("receipt/success", 116, "10f06e2c93dfbaa7aa6112cf27ae3b8aa37ebc17f967e5f656cd6ea895d45064"),
        ("receipt_leaf/success", 32, "a7841da9e866977bc8adb0cd518095d642882573d79446d10ea1511c1e967b7a"),
        ("receipt/failure", 116, "a0ce6615d508555afc3aca21634ccb7ecff5aed4350e4ffd9c7f294324c0622b"),
        ("receipt_leaf/failure", 32, "c0b97416b093671ea1a33aa7b41d88d042aceec9baf6659524a795ac90e2f527"),
        ("receipt/failure_whole", 116, "336e488f70aca6b258ed659c88ce364639c48a18a83e9ca697a135fcb185563e"),
        ("receipt_leaf/failure_whole", 32, "acab9dbafd9547085028e200fcd95fe0bec5e66289abafa0d46e4a601ea21781"),
        ("receipt_proof/committed", 864, "7bcee650d75b4a14523d46f03b9c8172a20dedd1ba71b9601cde0cc80ed20cf2"),
        ("receipt_proof/certified", 1450, "26a00e2cccb462cf895128e9e05c01de3116eddc2ce33fa92655cf698f191140"),
        ("state_key/account", 21, "a864868d5f0babf12391419c2cedae20dec719065080d2c2bba4085ed763003b"),
        ("state_value/account", 24, "ba816c275946089cbd20169dd449e94faa0e0f0be5053d6898c89fa391ac9725"),
        ("state_key/asset", 17, "d39d46094ed0c3f0988bf1de55453881b465486b679050a78c780fdf2bfbba09"),
        ("state_value/asset", 64, "a6f352ced9076a31d872536ea2c283cde58587bbced060e1bf1b54f86ab52e32"),
        ("state_key/holding", 37, "326d3b97945ab3b3d776813412f30ce540e26801e4f3d1c5ef8f8c66e0690439"),
        ("state_value/holding", 24, "c469d8e50fdf9d2551cc59be10fc948a5b5b4ea6702fa7201626fd9c967697c5"),
        ("state_key/mandate", 57, "e8418aed4b0af87995f1801d5a0b49e827a3d0d4832e2b46c75fbf92e3761aef"),
        ("state_value/mandate", 32, "7f29d8b0b4616885cac9c05c97f7cb7e2c290539905aa7fb776acc723b175e0e"),
        ("state_key/nonce", 29, "79b28da8970ad2d7832c631b7f8a4a879ff25c5a825c5863a28fd9fa3a18786b"),
        ("state_value/nonce", 16, "19917661588e3a87b9fe25a5fa435afbd8d052d811f3f4ff65f9d0e032c4ba1c"),
        ("state_root/empty", 32, "886c6cc032301a782d536e56c085a94a4f6d2a78a6ad58c7b21beb2e85e6c9df"),
        ("state_root/nonces", 32, "db875c12b9af0b90c41fc6218b0ae58e6b54619ce8d935e58f4a80cc70f0b78d"),
        ("state_record/row", 3844, "2538901483a809f587f7f56fdd2147371323d9cc77319f3c2340ea5095bb177f"),
        ("state_record/fork", 576, "fe3e5e0296659bf4e0c4b4eac305560ff9ea6c15b8304f02833cacbde25ba7f5"),
        ("state_record/all", 76911, "055f03f20eb01699d54b172c987f5d3b14ede11ad87697619e8c889c50c32956"),
        ("state_proof/present", 844, "bfdecc0e1a86d694d3a3475d4338339a6e76b4820c99024f114b9f6c24d3dca7"),
        ("state_proof/absent", 908, "f2d87cc45d12878ef21cf6e8cd6cd8ecf3882bfed0490653c2c7ea13e6ba11ff"),
        ("account_proof/present", 3124, "bccaf1557cd09086696ca2aafc0d1b781c111469549de0636f069f394305d7cc"),
        ("account_proof/absent", 1037, "155774ef76b145dbccb920b3b6d8da48a56df128fa17eb8a555b2cb5f9ee3da1"),
    ];

    /// Every example with its bytes, in the order of the table.
    fn encodings() -> Vec<(String, Vec<u8>)> {
        let chain = Chain::new();
        let id = chain.id();
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |name: &str, bytes: &[u8]| all.push((name.to_owned(), bytes.to_vec()));

        add("public_key", examples::signer(1).public_key().as_bytes());
        add("address", examples::signer(1).public_key().address().as_bytes());
        add("genesis", &chain.genesis.to_bytes());
        add("chain_id", id.as_bytes());
        add("validators_digest", chain.genesis.validators.digest(id).as_bytes());

        let operations = examples::operations();
        for (name, operation) in &operations {
            let transaction = examples::transaction(id, 1, &[*operation]);
            add(&format!("transaction/{name}"), transaction.bytes());
        }
        let every: Vec<_> = operations.iter().map(|(_, operation)| *operation).collect();
        add("transaction/all", examples::transaction(id, u64::MAX, &every).bytes());

        let first = &chain.heights[0];
        add("batch", first.batches[0].bytes());
        add("batch_digest", first.batches[0].digest().as_bytes());
        add("tx_id", first.batches[0].entries()[0].id.as_bytes());
        add("tx_digest", first.batches[0].entries()[0].digest.as_bytes());
        for height in &chain.heights {
            let (number, block) = (height.block.height(), &height.block);
            let mut bytes = Vec::new();
            block.write(&mut bytes);
            add(&format!("block/{number}"), &bytes);
            add(&format!("block_header/{number}"), block.header().as_bytes());
            add(&format!("block_digest/{number}"), block.digest().as_bytes());
            let mut bytes = Vec::new();
            height.certificate.write(&mut bytes);
            add(&format!("certificate/{number}"), &bytes);
        }
        let precommit = examples::precommit(id, 1, first.block.digest(), 1);
        add("vote", precommit.vote.as_bytes());
        add("signed_vote", precommit.as_bytes());
        add("signed_vote/nil", examples::prevote_for_nil(id).as_bytes());
        let [proposal, locked] = examples::proposals(id);
        add("proposal", proposal.proposal.as_bytes());
        add("signed_proposal", proposal.as_bytes());
        add("signed_proposal/locked", locked.as_bytes());
        for (name, receipt) in ["success", "failure", "failure_whole"].iter().zip(&first.receipts) {
            add(&format!("receipt/{name}"), receipt.as_bytes());
            add(&format!("receipt_leaf/{name}"), receipt.leaf().as_bytes());
        }
        add("receipt_proof/committed", &chain.proof(1, 3, Strength::Committed).to_bytes());
        add("receipt_proof/certified", &chain.proof(1, 3, Strength::Certified).to_bytes());
        add_state(id, &mut add);
        let accounts = Accounts::new(&chain);
        for (name, address) in [("present", accounts::PRESENT), ("absent", accounts::ABSENT)] {
            add(&format!("account_proof/{name}"), &accounts.proof(&chain, address).to_bytes());
        }
        all
    }

    /// Keys and values of the state, and a state of so many nonces that some of its sixteen buckets
    /// are rows and some forks.
    fn add_state(id: ChainId, add: &mut impl FnMut(&str, &[u8])) {
        let (one, other, asset) =
            (Address([1; 20]), Address([2; 20]), AssetCode::new("BOND").unwrap());
        let open = Account { opened_at: 3, closed_at: None, holdings_count: 1, mandates_count: 0 };
        let bond =
            Asset { authority: one, decimals: 2, created_at: 4, supply_cap: 1 << 90, supply: 7 };
        let granted = Mandate { limit: 5, expires_at: 700, granted_at: 9 };
        let used = StateValue::Nonce(Nonce { valid_until: 605, used_at: 5 });
        let nonce = |nonce| StateKey::Nonce { sender: one, nonce };
        let mandate = StateKey::Mandate { owner: one, agent: other, asset };
        let entries = [
            ("account", StateKey::Account(one), StateValue::Account(open)),
            ("asset", StateKey::Asset(asset), StateValue::Asset(bond)),
            (
                "holding",
                StateKey::Holding(one, asset),
                StateValue::Holding(Holding { balance: 7, frozen: true }),
            ),
            ("mandate", mandate, StateValue::Mandate(granted)),
            ("nonce", nonce(8), used),
        ];
        for (name, key, value) in entries {
            add(&format!("state_key/{name}"), key.to_bytes().as_slice());
            add(&format!("state_value/{name}"), value.to_bytes().as_slice());
        }
        let hasher = &*software_provider().hasher;
        let mut tree = StateTree::new(id, 4, hasher);
        add("state_root/empty", tree.root().as_bytes());
        let write = |(key, value)| Write { key, before: None, value: Some(value) };
        let nonces = (100..1_150).map(|number| write((nonce(number), used)));
        let writes: Vec<Write> =
            entries.into_iter().map(|(_, key, value)| write((key, value))).chain(nonces).collect();
        let changes = StateChanges::new(id, 4, &writes, hasher);
        let update = tree.update(&changes);
        assert!(update.wanted().is_empty(), "nothing lies in an empty state");
        let applied = tree.apply(&update, hasher).unwrap();
        add("state_root/nonces", applied.root.as_bytes());
        let records: BTreeMap<Vec<u8>, Vec<u8>> = applied
            .records()
            .map(|(place, record)| (place.to_bytes().as_ref().to_vec(), record.unwrap().to_vec()))
            .collect();
        let top = |is_fork| {
            let found = records
                .iter()
                .find(|(key, record)| key.len() == 4 && (record.len() == 576) == is_fork);
            found.unwrap().1.as_slice()
        };
        add("state_record/row", top(false));
        add("state_record/fork", top(true));
        let all: Vec<u8> =
            records.iter().flat_map(|(key, record)| [&key[..], record].concat()).collect();
        add("state_record/all", &all);
        for (name, key) in [("present", nonce(100)), ("absent", nonce(1))] {
            let mut prover = tree.prove(&key);
            while let Some(place) = prover.wanted() {
                prover.supply(&records[place.to_bytes().as_ref()]).unwrap();
            }
            add(&format!("state_proof/{name}"), &prover.finish().to_bytes());
        }
    }

    #[test]
    fn bytes_are_those_of_the_table() {
        let found: Vec<(String, usize, String)> = encodings()
            .into_iter()
            .map(|(name, bytes)| (name, bytes.len(), Sm3::of(&[&bytes]).to_string()))
            .collect();
        let expected: Vec<(String, usize, String)> = TABLE
            .iter()
            .map(|(name, size, digest)| ((*name).to_owned(), *size, (*digest).to_owned()))
            .collect();
        if found == expected {
            return;
        }
        for row in found.iter().filter(|row| !expected.contains(row)) {
            println!("differs from the table: {}", row.0);
        }
        println!("the table of these bytes:");
        for (name, size, digest) in &found {
            println!("        (\"{name}\", {size}, \"{digest}\"),");
        }
        panic!("the encoding has changed: raise the format version and replace the table");
    }
}
