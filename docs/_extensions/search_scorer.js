// The order of search results: headings that contain the query, then pages by the share of the query's words that are in
// their headings, then functions, then words in the text. Pages of how-to come first, decisions and changes last.
const searchedWords = () => {
  const stemmer = new Stemmer();
  const words = (new URLSearchParams(window.location.search).get("q") || "").toLowerCase().match(/[\p{L}\p{N}_]+/gu) || [];
  return words.filter((word) => !stopwords.has(word)).map((word) => stemmer.stemWord(word));
};

// The share of the words that are in some heading of the page, plus half of the share that is in its title.
const shareInHeadings = (page) => {
  const { docnames, titles, titleterms } = Search._index;
  const file = docnames.indexOf(page), stemmer = new Stemmer();
  const inTitle = new Set(titles[file].toLowerCase().split(/[^\p{L}\p{N}_]+/u).map((word) => stemmer.stemWord(word)));
  const words = searchedWords();
  const inHeadings = (word) => Object.hasOwn(titleterms, word) && [titleterms[word]].flat().includes(file);
  const share = (test) => words.filter(test).length / Math.max(words.length, 1);
  return share(inHeadings) + share((word) => inTitle.has(word)) / 2;
};

const FOLDERS = { how_to: 6, tutorial: 2, decisions: -6 };

var Scorer = {
  score: ([page, , , , score, , kind]) => {
    const place = (FOLDERS[page.split("/")[0]] || 0) - (page === "explanation/changes" ? 1000 : 0);
    if (kind === "text") return Math.min(score, 5) + 30 * shareInHeadings(page) + place;
    return score + (kind === "title" ? 15 : 0) + place;
  },
  title: 40, // the title of a page or of a section
  partialTitle: 12,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  term: 5,
  partialTerm: 2,
};
