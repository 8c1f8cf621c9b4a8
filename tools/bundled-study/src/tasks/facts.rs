//! Skills that read facts out of a text or table: each draws one instruction, its context and the only right answer.

use super::draw::Draw;
use super::words::{ANIMALS, COLOURS, JOBS, MONTHS, THINGS, TOOLS, VEGETABLES};
use super::{Drawn, article, drawn, join, phrase};

/// One attribute of an invented person: as a statement, as a question about its value, and about whose it is.
struct Attribute {
    stated: &'static [&'static str],
    asked: &'static [&'static str],
    reversed: &'static [&'static str],
}

const ATTRIBUTES: [Attribute; 5] = [
    Attribute {
        stated: &["{0} lives in {1}.", "{0}'s home is in {1}."],
        asked: &["Where does {0} live?", "In which town does {0} live?"],
        reversed: &["Who lives in {0}?"],
    },
    Attribute {
        stated: &["{0} works as {2} {1}.", "{0} is {2} {1}."],
        asked: &["What is {0}'s job?", "What does {0} work as?"],
        reversed: &["Who works as {1} {0}?"],
    },
    Attribute {
        stated: &["{0} is {1} years old.", "{0}'s age is {1}."],
        asked: &["How old is {0}?", "What is the age of {0}?"],
        reversed: &["Who is {0} years old?"],
    },
    Attribute {
        stated: &["{0}'s favourite colour is {1}.", "{0} likes {1} best."],
        asked: &["What is {0}'s favourite colour?", "Which colour does {0} like best?"],
        reversed: &["Who likes {0} best?"],
    },
    Attribute {
        stated: &["{0} has {2} {1}.", "{0} owns {2} {1}."],
        asked: &["Which animal does {0} have?", "What pet does {0} own?"],
        reversed: &["Who has {1} {0}?"],
    },
];

fn attribute_value(d: &mut Draw, which: usize) -> String {
    match which {
        0 => d.city(),
        1 => d.pick(&JOBS).to_string(),
        2 => d.int(18, 89).to_string(),
        3 => d.pick(&COLOURS).to_string(),
        _ => d.pick(&ANIMALS).to_string(),
    }
}

/// A question on four to six facts about two or three invented persons.
pub(super) fn closed_qa(d: &mut Draw) -> Drawn {
    let count = d.int(2, 3) as usize;
    let people = d.distinct(count, Draw::name);
    let wanted = d.int(3, 5) as usize;
    let keys = d.distinct(wanted, |d| (d.index(count), d.index(ATTRIBUTES.len())));
    let mut facts: Vec<(usize, usize, String)> = Vec::new();
    for (person, which) in keys {
        let mut value = attribute_value(d, which);
        while facts.iter().any(|f| f.2 == value) {
            value = attribute_value(d, which);
        }
        facts.push((person, which, value));
    }
    let sentences: Vec<String> =
        facts.iter().map(|(p, w, v)| phrase(d, ATTRIBUTES[*w].stated, &[&people[*p], v, article(v)])).collect();
    let (person, which, value) = d.pick(&facts);
    let (question, answer) = if d.index(3) == 0 {
        (phrase(d, ATTRIBUTES[which].reversed, &[&value, article(&value)]), people[person].clone())
    } else {
        (phrase(d, ATTRIBUTES[which].asked, &[&people[person]]), value)
    };
    drawn(question, sentences.join(" "), answer)
}

/// One field out of a short message with three or four.
pub(super) fn information_extraction(d: &mut Draw) -> Drawn {
    const FIELDS: [(&str, &str); 5] = [
        ("email address", "Write to {0}."),
        ("phone number", "Call {0}."),
        ("date", "It was bought on {0}."),
        ("price", "The price was {0}."),
        ("order number", "My order is {0}."),
    ];
    let kept = d.int(3, 4) as usize;
    let which = d.distinct(kept, |d| d.index(FIELDS.len()));
    let values: Vec<String> = which.iter().map(|&w| field_value(d, w)).collect();
    let (thing, name) = (d.pick(&THINGS), d.name());
    let opening = phrase(d, &["Hello, this is {0}, my {1} is broken.", "{0} here, about the {1}."], &[&name, thing]);
    let parts: Vec<String> = which.iter().zip(&values).map(|(&w, v)| FIELDS[w].1.replace("{0}", v)).collect();
    let asked = d.index(kept);
    let instruction = phrase(
        d,
        &["Extract the {0} from the message.", "What is the {0} in this message?", "Find the {0}."],
        &[FIELDS[which[asked]].0],
    );
    drawn(instruction, format!("{opening} {}", parts.join(" ")), &values[asked])
}

fn field_value(d: &mut Draw, which: usize) -> String {
    match which {
        0 => {
            let (name, city) = (d.name(), d.city());
            format!("{}@{}.{}", name.to_lowercase(), city.to_lowercase(), d.pick(&["com", "net", "org"]))
        }
        1 => format!("555-{:04}", d.int(0, 9999)),
        2 => format!("{} {} {}", d.int(1, 28), d.pick(&MONTHS), d.int(1990, 2029)),
        3 => format!("{}.{:02} euros", d.int(2, 299), d.int(0, 99)),
        _ => format!("{}{}", d.pick(&["A", "B", "K", "R"]), d.int(10000, 99999)),
    }
}

/// The sentiment of a review, the desk of a ticket, or the kinds of three words.
pub(super) fn classification(d: &mut Draw) -> Drawn {
    match d.index(3) {
        0 => sentiment(d),
        1 => ticket(d),
        _ => kinds(d),
    }
}

fn sentiment(d: &mut Draw) -> Drawn {
    const GOOD: [&str; 8] = ["excellent", "great", "lovely", "perfect", "solid", "superb", "useful", "wonderful"];
    const BAD: [&str; 8] = ["awful", "broken", "dreadful", "faulty", "flimsy", "poor", "terrible", "useless"];
    const PARTS: [&str; 5] = ["colour", "delivery", "price", "service", "shape"];
    let (first, second) = (d.coin(), d.coin());
    let answer = match (first, second) {
        (true, true) => "positive",
        (false, false) => "negative",
        _ => "mixed",
    };
    let mut adjective = |good: bool| if good { d.pick(&GOOD) } else { d.pick(&BAD) };
    let (a, b) = (adjective(first), adjective(second));
    let (thing, part, city) = (d.pick(&THINGS), d.pick(&PARTS), d.city());
    let review = phrase(
        d,
        &["The {0} from {3} is {1} and the {4} was {2}.", "I bought a {0} in {3}: {1}. The {4}: {2}."],
        &[thing, a, b, &city, part],
    );
    let instruction = d.pick(&[
        "Is the review positive, negative or mixed?",
        "Classify the sentiment of the review as positive, negative or mixed.",
    ]);
    drawn(instruction, review, answer)
}

fn ticket(d: &mut Draw) -> Drawn {
    const DESKS: [(&str, [&str; 4]); 4] = [
        (
            "billing",
            ["I was charged twice", "the invoice is wrong", "my refund is missing", "the discount was not applied"],
        ),
        (
            "shipping",
            ["the parcel is late", "it went to the wrong address", "the box arrived open", "tracking shows nothing"],
        ),
        (
            "technical",
            ["it does not switch on", "the screen stays dark", "it makes a strange noise", "the update fails"],
        ),
        (
            "account",
            ["I cannot log in", "my password is not accepted", "please delete my profile", "I want to change my name"],
        ),
    ];
    let (desk, phrases) = d.pick(&DESKS);
    let (name, thing, order) = (d.name(), d.pick(&THINGS), d.int(100, 999).to_string());
    let problem = d.pick(&phrases);
    let text = phrase(
        d,
        &["{0} writes about the {1} (case {2}): {3}.", "Case {2}, {1}, from {0}: {3}."],
        &[&name, thing, &order, problem],
    );
    let instruction = d.pick(&[
        "Route the ticket to billing, shipping, technical or account.",
        "Which desk should take this: billing, shipping, technical or account?",
    ]);
    drawn(instruction, text, desk)
}

fn kinds(d: &mut Draw) -> Drawn {
    let pools: [(&str, &[&'static str]); 3] = [("animal", &ANIMALS), ("vegetable", &VEGETABLES), ("tool", &TOOLS)];
    let chosen: Vec<(&str, &str)> = d.distinct(3, |d| {
        let (kind, pool) = d.pick(&pools);
        (kind, d.pick(pool))
    });
    let words: Vec<&str> = chosen.iter().map(|c| c.1).collect();
    let kinds: Vec<&str> = chosen.iter().map(|c| c.0).collect();
    let instruction = d.pick(&[
        "Say for each word whether it is an animal, a vegetable or a tool.",
        "Classify each word as animal, vegetable or tool.",
    ]);
    drawn(instruction, join(&words), join(&kinds))
}

/// The largest or smallest number, or whose value is the highest or lowest.
pub(super) fn comparison(d: &mut Draw) -> Drawn {
    let count = d.int(3, 5) as usize;
    let most = d.coin();
    let values = d.distinct(count, |d| d.int(1, 999));
    let best = if most { values.iter().max() } else { values.iter().min() };
    let best = best.copied().unwrap_or_default();
    if d.coin() {
        let instruction = phrase(
            d,
            &["Which number is the {0}?", "Give the {0} of these numbers."],
            &[if most { "largest" } else { "smallest" }],
        );
        return drawn(instruction, join(&values), best);
    }
    let names = d.distinct(count.min(4), Draw::name);
    let ages = d.distinct(names.len(), |d| d.int(10, 99));
    let target = if most { ages.iter().max() } else { ages.iter().min() };
    let winner = ages.iter().position(|a| Some(a) == target).unwrap_or_default();
    let people: Vec<String> = names.iter().zip(&ages).map(|(n, a)| format!("{n} is {a}")).collect();
    let instruction =
        phrase(d, &["Who is the {0}?", "Name the {0} person."], &[if most { "oldest" } else { "youngest" }]);
    drawn(instruction, format!("{}.", people.join(", ")), &names[winner])
}

/// A cell of a small table: the value listed for a name, or the name listed with a value.
pub(super) fn table_lookup(d: &mut Draw) -> Drawn {
    let rows = d.int(3, 5) as usize;
    let names = d.distinct(rows, Draw::name);
    let column = d.pick(&["town", "score"]);
    let values = match column {
        "town" => d.distinct(rows, Draw::city),
        _ => d.distinct(rows, |d| d.int(10, 99).to_string()),
    };
    let lines: Vec<String> = names.iter().zip(&values).map(|(name, value)| format!("{name}: {value}")).collect();
    let row = d.index(rows);
    let (name, value) = (&names[row], &values[row]);
    let (instruction, answer) = if d.index(4) == 0 {
        (phrase(d, &["Who is listed with {0}?", "Which name stands beside {0}?"], &[value]), name)
    } else {
        (phrase(d, &["Which {1} is listed for {0}?", "Look up the {1} of {0}."], &[name, column]), value)
    };
    drawn(instruction, format!("name: {column}\n{}", lines.join("\n")), answer)
}
