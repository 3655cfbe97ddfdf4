// The order of search results: titles that match as a whole, then pages with a title that has a word of the query, then
// functions, then words in the text. The changelog, which mentions almost everything, comes last.
var Scorer = {
  score: ([page, , , , score, , kind]) => score + (kind === "title" ? 15 : 0) - (page === "explanation/changes" ? 1000 : 0),
  title: 40, // the title of a page or of a section
  partialTitle: 12,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  term: 5,
  partialTerm: 2,
};
