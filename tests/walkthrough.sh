#!/usr/bin/env bash
# Payments by hand: bank, cloud core and devices as processes of their own, people made of mosquitto_pub and
# mosquitto_sub. First a success, then a failure with its refund, then a child's money. Everything is in ./walkthrough.
#
# Needs cloud-core, edge-agent and device-sim in PATH (cargo build --workspace; PATH=$PWD/target/debug:$PATH), jq,
# curl, openssl and mosquitto-clients. Start it in an empty directory.
set -euo pipefail
mkdir walkthrough && cd walkthrough
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
wait_for() { for _ in $(seq 300); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done; echo "waited for: $*" >&2; exit 1; }

# --- 1. A bank that alice has an account at; its book survives in bank.json. Then the core, in ./core.
device-sim bank --book bank.json --account alice=20.00:EUR --account holding=0.00:EUR > bank.out &
wait_for grep -q listening bank.out
BANK=$(sed 's/bank listening on //' bank.out)

export FARTHING_DATA_DIR=$PWD/core FARTHING_LOG_FILTER=warn
cloud-core serve --listen-tcp 127.0.0.1:0 --listen-tls 127.0.0.1:0 --listen-enrolment 127.0.0.1:0 --listen-http 127.0.0.1:0 > core.out &
wait_for grep -q ready core.out
address() { jq -r ".$1" core/addresses.json; }

# --- 2. The operator registers who there is.
edge-agent message keygen --out alice.key > alice.pub
cloud-core admin tenants create acme --currency EUR --bank-url "$BANK" --bank-holding holding
cloud-core admin people create acme/till
cloud-core admin people create acme/alice --public-key "$(cat alice.pub)" --bank-account alice
cloud-core admin merchants create acme/snacks --title "Snacks & Co" --terminal till
cloud-core admin devices create acme/chip-1 --profile payment-chip
cloud-core admin devices create acme/machine-1 --profile vending-executor --longest-act-ms 30000
cloud-core admin chips bind acme/chip-1 --merchant snacks --executor machine-1

# --- 3. The technician enrols both devices with one-time codes, and starts them. Their keys never leave them.
for device in chip-1 machine-1; do
  CODE=$(cloud-core admin claim create acme/$device | head -1)
  edge-agent enroll --claim "$CODE" --server "$(address enrolment)" --device acme/$device --data $device
done
edge-agent run --log warn --data chip-1 --profile payment-chip --broker "$(address mqtt_tls)" &
edge-agent run --log warn --data machine-1 --profile vending-executor --broker "$(address mqtt_tls)" \
  --physical-log physical.log --faults done,failed:jammed &
for device in chip-1 machine-1; do
  wait_for sh -c "edge-agent status --data $device --json | jq -e '.connected and .cloud_time != null'"
done

# --- 4. Alice's terminal: everything she is told goes to ./told, one line a message, topic and payload in hexadecimal.
TOKEN=$(cloud-core admin token create acme/alice | head -1)
LANE=$(address mqtt_tcp)
MQTT=(-h "${LANE%:*}" -p "${LANE##*:}" -V mqttv5 -u acme/alice -P "$TOKEN" -q 1)
stdbuf -oL mosquitto_sub "${MQTT[@]}" -i alice-hears -t 'ft/acme/alice/down/+' -F '%t %X' > told &
say() { mosquitto_pub "${MQTT[@]}" -i alice-says -t "ft/acme/alice/up/$1" -s; }
# The newest message of a kind, as CBOR; with a text that it must contain, once it has come.
told() { grep "/down/$1 " told | tail -1 | cut -d' ' -f2 | basenc --base16 -d; }
read_told() { told "$1" | edge-agent message decode "$1" | jq -c .body; }
has_told() { read_told "$1" | grep -q "$2"; }

buy() {
  # The chip shows a signed code (without --json as a QR code, too); alice hands it in.
  edge-agent pay-info --data chip-1 --item water --json | jq '{information}' > shown.json
  KEY=$(openssl rand -hex 16)
  edge-agent message encode payment-request --key "$KEY" < shown.json | say payment-request
  wait_for has_told request-answer "$KEY"
  PAYMENT=$(read_told request-answer | jq -r .payment)

  # She is asked whether she wants to pay that much to that payee, and signs exactly this.
  wait_for has_told payment-verification "$PAYMENT"
  read_told payment-verification
  told payment-verification | edge-agent message sign --key alice.key --payer acme/alice | say payment-verification

  # What becomes of it.
  wait_for has_told payment-status "$PAYMENT.*\"state\":\"$1\""
  read_told payment-status > status.json
  jq -c '{state, paid, text}' status.json
}

echo "== a bottle of water"
buy delivered
jq -e '.paid == "1.50 EUR"' status.json > /dev/null

echo "== another one: the machine jams"
buy refunded
jq -e '.paid == "0.00 EUR"' status.json > /dev/null

# --- 5. The operator looks: the whole story of the second payment, the accounts, the books.
cloud-core admin payments show "$PAYMENT"
cloud-core admin accounts list
cloud-core admin books
cloud-core admin books --json | jq -e '.rows.balanced and .rows.open_payments == 0 and .rows.exceptions == 0' > /dev/null

# --- 6. The three books agree: the bank's, ours, and what came out of the machine.
curl -s "$BANK/book" | jq -c '.accounts | map_values(.balance)'
jq -e '.accounts.alice.balance == "18.50" and .accounts.holding.balance == "1.50" and (.refunds | length) == 1' bank.json > /dev/null
jq -es 'length == 2 and (map(.delivered) | add) == 1' physical.log > /dev/null
echo "== the books agree"

# --- 7. A family: accounts in our own ledger, a child with a guardian and a piggy bank.
cloud-core admin tenants create home --currency EUR
for person in mia dad; do cloud-core admin people create home/$person; done
cloud-core admin accounts deposit home/mia "20.00 EUR" --reference birthday
cloud-core admin devices create home/piggy --profile piggy-bank
cloud-core admin children bind home/mia --guardian dad --piggy-bank piggy --time-zone Europe/Berlin
CODE=$(cloud-core admin claim create home/piggy | head -1)
edge-agent enroll --claim "$CODE" --server "$(address enrolment)" --device home/piggy --data piggy
edge-agent run --log warn --data piggy --profile piggy-bank --display none --broker "$(address mqtt_tls)" &
wait_for sh -c "edge-agent status --data piggy --json | jq -e '.connected and .cloud_time != null'"

TOKEN=$(cloud-core admin token create home/dad | head -1)
MQTT=(-h "${LANE%:*}" -p "${LANE##*:}" -V mqttv5 -u home/dad -P "$TOKEN" -q 1)
stdbuf -oL mosquitto_sub "${MQTT[@]}" -i dad-hears -t 'ft/home/dad/down/+' -F '%t %X' > told &
order() {
  KEY=$(openssl rand -hex 16)
  edge-agent message encode payment-order --key "$KEY" --body "$1" |
    mosquitto_pub "${MQTT[@]}" -i dad-says -t ft/home/dad/up/payment-order -s
  wait_for has_told request-answer "$KEY"
  PAYMENT=$(read_told request-answer | jq -r .payment)
}
asked() { edge-agent prompt list --data piggy --json | jq -e --arg id "$PAYMENT" 'any(.prompts[]; .payment == $id)'; }

echo "== dad orders, mia says yes"
order '{"child": "mia", "amount": "7.50 EUR", "categories": ["books"], "note": "The one about whales"}'
wait_for asked
edge-agent prompt list --data piggy
edge-agent prompt confirm "$PAYMENT" --data piggy
wait_for has_told payment-status "$PAYMENT.*\"state\":\"settled\""
read_told payment-status | jq -c '{state, paid, text}'

echo "== dad orders, mia says no"
order '{"child": "mia", "amount": "50.00 EUR", "minimum": "1.00 EUR", "categories": ["toys"]}'
wait_for asked
edge-agent prompt reject "$PAYMENT" --data piggy
wait_for has_told payment-status "$PAYMENT.*\"state\":\"rejected\""
read_told payment-status | jq -c '{state, paid, text}'

cloud-core admin children list
cloud-core admin children payments
cloud-core admin books --json | jq -e '.rows.balanced and .rows.open_payments == 0' > /dev/null
cloud-core admin children list --json | jq -e '.rows[0].available == "12.50 EUR"' > /dev/null
echo "== the books agree"
