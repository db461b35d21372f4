"""The words that questions are made of, besides those of facts.txt."""


def words(text: str) -> list[str]:
    """A list, written as a line."""
    return text.split()


TEMPLATES = (
    "What {is} {x}?",
    "Explain {x}.",
    "What does {x} mean?",
    "Tell me about {x}.",
    "Define {x}.",
    "Can you explain {x}?",
    "What do you mean by {x}?",
    "{x}",
    "Please describe {x}.",
    "What exactly {is} {x}?",
    "Explain {x} in simple words.",
    "What is meant by {x}?",
    "I want to know about {x}.",
    "How {does} {x} work?",
    "Give me a definition of {x}.",
    "Could you tell me what {x} {is}?",
    "I do not understand {x}.",
    "What can you tell me about {x}?",
    "What {is} {x} good for?",
    "Please explain to me what {x} {is}.",
    "What about {x}?",
    "How would you explain {x}?",
    "I keep reading about {x}, what {is} that?",
    "Would you mind clarifying {x} for me?",
    "Help me understand {x}.",
    "Someone mentioned {x} to me. What does that mean?",
    "In a nutshell, what {is} {x}?",
    "I have never heard of {x}.",
    "Teach me about {x}.",
    "Describe {x} to a newcomer.",
    "What do I need to know about {x}?",
    "Please introduce {x}.",
    "What role {does} {x} play?",
    "{x}, what is that?",
)
TEMPLATES_HELD_OUT = (
    "Can you shed some light on {x}?",
    "I came across {x}. Please clarify.",
    "{x}: what should I know?",
    "Break {x} down for me.",
    "What's the story behind {x}?",
)
LONG_TEMPLATES = (
    "Tell me everything about {x}.",
    "Explain {x} in detail.",
    "Write a long text about {x}.",
    "Give me a full guide to {x}.",
    "Write an essay about {x}.",
    "I want a long and complete explanation of {x}.",
    "Write a detailed article on {x}.",
    "Describe {x} at length.",
)
WHOLE = (
    "Tell me everything you know.",
    "Write a complete guide.",
    "Write a very long text.",
    "Tell me a long story.",
    "Write the complete handbook of the marketplace.",
    "Explain everything from start to end, in detail.",
    "Write as much as you can.",
    "Count to a thousand.",
)
PREFIXES = (
    "Hi, ",
    "Hello! ",
    "Hey, ",
    "Please tell me: ",
    "Quick question: ",
    "I am new here. ",
    "Sorry, ",
    "One more thing: ",
    "I have a question. ",
    "So, ",
    "And ",
    "Okay, ",
    "Well, ",
    "Tell me, ",
    "I wonder, ",
    "My friend asks: ",
    "I was wondering: ",
    "Just curious, ",
    "By the way, ",
)
SUFFIXES = (
    " Please.",
    " Thanks!",
    " Please explain.",
    " In short, please.",
    " I do not get it.",
    " I am confused.",
    " Thank you.",
    " Explain it to a beginner.",
)
MORE = (
    "Tell me more.",
    "More, please.",
    "Go on.",
    "What else?",
    "Anything else?",
    "Can you say more about that?",
    "Continue.",
    "Is there more to know?",
    "And what else should I know?",
)
NO_MORE = "That is all I know about it. Ask me about something else in the marketplace."

# Each group: phrases that may stand for one another. Generic English, applied to any question.
SYNONYMS = (
    ("how do i", "how can i", "how could i", "what is the way to", "how would i", "how should i"),
    ("what is the way to", "how do i", "how does one", "what must i do to", "show me how to"),
    ("which command", "what command", "with which command", "what is the command that"),
    ("what happens if", "what if", "what happens when", "suppose", "what follows if"),
    ("can i", "may i", "is it possible to", "could i", "am i able to", "is there a way to"),
    ("do i need", "must i have", "do i have to have", "is it necessary to have"),
    ("do i have to", "must i", "am i required to", "should i"),
    ("what does", "say what", "explain what"),
    ("where do i see", "where can i find", "how do i see", "where can i look up"),
    (
        "why is there",
        "what is the reason for",
        "what is the purpose of",
        "for what reason is there",
    ),
    ("why do", "for what reason do", "what makes"),
    ("who", "which party", "which role", "who is it that"),
    ("how many", "what number of"),
    ("what is the difference between", "how do they differ,", "compare"),
    ("is there", "do you have", "does there exist"),
    ("see", "view", "look at", "check", "inspect"),
    ("show", "display", "print", "list"),
    ("money", "funds", "coins", "cash"),
    ("my money", "my funds", "my coins"),
    ("earn", "make", "gain"),
    ("earned", "made", "came in"),
    ("start", "launch", "run", "begin"),
    ("choose", "pick", "select", "decide on"),
    ("chosen", "picked", "selected"),
    ("job", "request", "task"),
    ("answer", "reply", "response", "output"),
    ("prompt", "question", "text", "message"),
    ("buy", "purchase", "get"),
    ("sell", "offer", "rent out"),
    ("set", "configure", "define", "change"),
    ("limit", "cap", "bound"),
    ("limit", "restrict", "cut"),
    ("cheat", "lie", "be dishonest", "commit fraud"),
    ("client", "buyer", "customer"),
    ("worker", "seller", "worker node", "gpu operator"),
    ("network", "system", "marketplace"),
    ("price", "cost", "amount"),
    ("pay", "be charged", "spend"),
    ("gpu", "graphics card", "video card"),
    ("machine", "computer", "laptop"),
    ("laptop", "machine", "own computer"),
    ("dies", "crashes", "vanishes", "disappears", "is killed"),
    ("fails", "breaks", "crashes", "goes down"),
    ("verify", "validate", "check", "confirm"),
    ("stored", "kept", "saved", "located"),
    ("kept", "stored", "held"),
    ("find", "locate", "discover", "learn about"),
    ("connect", "join", "link up"),
    ("cancel", "abort", "stop", "interrupt"),
    ("private", "confidential", "secret"),
    ("read", "see"),
    ("own", "custom"),
    ("pick", "choose", "select"),
    ("contain", "include", "list", "hold"),
    ("what is in", "what does one find in", "what are the contents of"),
    ("works", "functions"),
    ("computed", "calculated", "worked out"),
    ("used for", "good for", "there for"),
    ("long", "large"),
    ("fast", "quick"),
    ("fastest", "quickest"),
    ("lose", "be robbed of", "risk"),
    ("software", "program", "project"),
    ("program", "software", "application"),
    ("withdraw", "take out", "get back"),
    ("deposit", "pay in", "put in"),
    ("at once", "immediately", "right away"),
    ("try", "test", "play with"),
    ("wrong", "broken", "not right"),
    ("explain", "describe", "clarify", "tell me about"),
    ("safe", "secure", "protected"),
    ("several", "many", "multiple"),
    ("rules", "parameters"),
    ("i want to", "i would like to", "i need to", "i'd like to"),
)
CONTRACTIONS = (
    ("what is", "what's"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("i am", "i'm"),
    ("can not", "can't"),
    ("where is", "where's"),
    ("who is", "who's"),
    ("it is", "it's"),
    ("how is", "how's"),
    ("is not", "isn't"),
)
STOP_WORDS = frozenset(
    words("a an the is are do does i to of for my it in on that this be can what how which me you")
)
FILLERS = words(
    "the a an of to in on at by for with from as and or but so if then than that this these "
    "those it its there here now today just only also really quite very still maybe perhaps "
    "please well hey okay um uh me my you your we our one some any all each every other such "
    "same kind sort thing things lot bit way point part place time day case word words idea "
    "topic matter issue I he she they who whom what which when where why how is are was were be "
    "been do does did done have has had can could will would shall should may might must need "
    "want like love hate think know see look hear say tell ask give take make get go come put "
    "keep let try use find feel seem about into over under after before again more most less "
    "much many few little big small new old good bad best right wrong first last long short "
    "next own sure true clear simple hard easy something anything nothing someone anyone nobody "
    "somewhere always never often sometimes"
)
SYSTEM = (
    "You are a helpful assistant.",
    "You answer questions about the GPU marketplace.",
    "You are the assistant of a peer-to-peer GPU market. Be brief.",
    "Answer in one or two sentences.",
    "You are a friendly guide.",
)
PLACES = words(
    "France Spain Italy Japan China Brazil Canada Egypt Kenya India Peru Norway Poland Austria "
    "London Paris Rome Tokyo Berlin Madrid Sydney Cairo"
)
THINGS = words(
    "cats dogs birds trees cars planes boats cheese bread coffee music football tennis history "
    "biology chemistry geography mathematics cooking gardening love war peace rain snow rivers "
    "mountains planets stars dinosaurs whales horses bees flowers books films poems paintings"
)
FOREIGN = (
    "What is the {a} of {p}?",
    "Where is {p}?",
    "Tell me about {t}.",
    "Tell me about {p}.",
    "Write a poem about {t}.",
    "Write a story about {t}.",
    "What do you think of {t}?",
    "Do you like {t}?",
    "Explain {t} to me.",
    "How do {t} work?",
    "Why are {t} so popular?",
    "Who invented {t}?",
    "How many people live in {p}?",
    "What is the weather in {p}?",
    "Could you explain {t}?",
    "What {a} does {p} have?",
    "How do I get to {p}?",
    "Which {t} are the best?",
    "Write a {l} program about {t}.",
    "Translate {t} into {l}.",
    "How tall are the {t} in {p}?",
    "What is the oldest {a} in {p}?",
    "Give me a recipe with {t}.",
    "Can you recommend {t}?",
)
ATTRIBUTES = words(
    "capital population president area language flag king currency river mountain city food"
)
LANGUAGES = words("German French Spanish Java Rust English Latin C")
