"""Which language a text is in.

Owns: telling IFEval's languages apart: by script where a script has one language, by langid where there is enough text,
by a few very common words where there is not. Does not own: instructions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LANGUAGES = {
    "en": "English", "es": "Spanish", "pt": "Portuguese", "ar": "Arabic", "hi": "Hindi", "fr": "French",
    "ru": "Russian", "de": "German", "ja": "Japanese", "it": "Italian", "bn": "Bengali", "uk": "Ukrainian",
    "th": "Thai", "ur": "Urdu", "ta": "Tamil", "te": "Telugu", "bg": "Bulgarian", "ko": "Korean", "pl": "Polish",
    "he": "Hebrew", "fa": "Persian", "vi": "Vietnamese", "ne": "Nepali", "sw": "Swahili", "kn": "Kannada",
    "mr": "Marathi", "gu": "Gujarati", "pa": "Punjabi", "ml": "Malayalam", "fi": "Finnish",
}  # fmt: skip
_SCRIPTS = {
    language: re.compile(f"[{letters}]")
    for language, letters in {
        "th": "\u0e00-\u0e7f", "ta": "\u0b80-\u0bff", "te": "\u0c00-\u0c7f", "ko": "\uac00-\ud7af\u1100-\u11ff",
        "bn": "\u0980-\u09ff", "he": "\u0590-\u05ff", "kn": "\u0c80-\u0cff", "gu": "\u0a80-\u0aff",
        "pa": "\u0a00-\u0a7f", "ml": "\u0d00-\u0d7f", "zh": "\u3400-\u9fff", "ja": "\u3040-\u30ff\u3400-\u9fff",
    }.items()
}  # fmt: skip
_KANA = re.compile("[\u3040-\u30ff]")
_MIN_KANA_SHARE = 0.1
_COMMON_WORDS: Mapping[str, str] = {
    "en": "yes no ok okay hello hi hey world the and is are was good thanks thank you please sorry sure maybe "
    "what who how i we they it this that stop go help right wrong true false fine great welcome morning "
    "night bye goodbye never always",
    "fr": "oui non merci bonjour bonsoir salut au revoir très bien bien sûr peut-être s'il vous plaît d'accord "
    "jamais toujours je tu nous vous le la les un une et mes amis c'est monde jour",
    "es": "sí si no gracias hola adiós buenos días buenas noches por favor tal vez quizás muy bien claro nunca "
    "siempre yo tú el la los las un una y mundo amigo es de acuerdo",
    "pt": "sim não obrigado obrigada olá oi tchau bom dia boa noite por favor talvez muito bem claro nunca "
    "sempre eu o a os as um uma e mundo é",
    "de": "ja nein danke bitte hallo tschüss guten tag morgen abend gute nacht vielleicht sehr gut klar nie "
    "immer ich du wir der die das ein eine und welt ist auf wiedersehen doch",
    "it": "sì si no grazie ciao buongiorno buonasera per favore forse molto bene certo mai sempre io tu noi il "
    "la i gli un una e mondo è arrivederci prego",
    "pl": "tak nie dziękuję proszę cześć dzień dobry dobranoc może bardzo dobrze nigdy zawsze ja ty my i jest świat",
    "fi": "kyllä joo ei kiitos hei moi hyvää päivää huomenta yötä ehkä hyvin aina minä sinä ja on maailma näkemiin",
    "sw": "ndiyo hapana asante habari jambo karibu tafadhali labda sana kamwe daima mimi wewe sisi na ni dunia kwaheri",
    "vi": "vâng không cảm ơn xin chào tạm biệt có thể rất tốt tôi bạn chúng ta và là thế giới dạ",
    "ru": "да нет спасибо привет здравствуйте пожалуйста может быть хорошо никогда всегда я ты мы и это мир пока",
    "uk": "так ні дякую привіт будь ласка може добре ніколи завжди я ти ми і це світ",
    "bg": "да не благодаря здравей моля може би добре никога винаги аз ти ние и това свят",
    "ar": "نعم لا شكرا مرحبا من فضلك ربما جيد أبدا دائما أنا أنت نحن و هذا العالم السلام عليكم",
    "fa": "بله نه ممنون سلام لطفا شاید خوب هرگز همیشه من تو ما و این جهان خداحافظ",
    "ur": "جی ہاں نہیں شکریہ سلام براہ کرم شاید اچھا کبھی ہمیشہ میں تم ہم اور یہ دنیا",
    "hi": "हाँ हां नहीं धन्यवाद नमस्ते कृपया शायद अच्छा कभी हमेशा मैं तुम हम और यह दुनिया",
    "mr": "होय हो नाही धन्यवाद नमस्कार कृपया कदाचित चांगले कधीही नेहमी मी तू आम्ही आणि हे जग",
    "ne": "हो होइन छैन धन्यवाद नमस्ते कृपया सायद राम्रो कहिल्यै सधैं म तिमी हामी र यो संसार",
}
_COMMON = {language: frozenset(words.split()) for language, words in _COMMON_WORDS.items()}
_MIN_WORDS = 5
"""Fewer words are too few for langid, which then answers by letters."""
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def language_of(text: str) -> str:
    """Its most likely language, as ISO 639-1."""
    import py3langid  # loads its model on the first call

    return str(py3langid.classify(text)[0])


def is_in_language(text: str, language: str) -> bool:
    """Whether a text is in a language: an ISO 639-1 code, with or without a region (`zh-cn`)."""
    wanted = language.lower().replace("_", "-").partition("-")[0]
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return False
    if wanted in _SCRIPTS:
        share = sum(_SCRIPTS[wanted].match(letter) is not None for letter in letters) / len(letters)
        kana = sum(_KANA.match(letter) is not None for letter in letters) / len(letters)
        return share > 0.5 and (wanted != "ja" or kana > 0) and (wanted != "zh" or kana < _MIN_KANA_SHARE)
    natural = text.lower() if text.isupper() else text
    if language_of(natural) == wanted:
        return not _is_another_s(natural, wanted)
    return _is_known(natural, wanted)


def _is_known(text: str, wanted: str) -> bool:
    """Whether a short text is made of a language's commonest words, or for English of no other language's."""
    words = _words(text)
    if not words or len(words) >= _MIN_WORDS:
        return False
    if all(word in _COMMON.get(wanted, frozenset()) for word in words):
        return True
    return wanted == "en" and text.isascii() and not _is_another_s(text, "en")


def _is_another_s(text: str, wanted: str) -> bool:
    """Whether a short text holds common words of another language, and none of the wanted one."""
    words = _words(text)
    if len(words) >= _MIN_WORDS or any(word in _COMMON.get(wanted, frozenset()) for word in words):
        return False
    return any(word in common for language, common in _COMMON.items() if language != wanted for word in words)


def _words(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]
