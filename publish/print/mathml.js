// Reads lines of {"tex": …, "display": …} and answers each with a line of MathML, by the MathJax
// that also typesets the site. Run by equations.py with the folder of MathJax.
const {createInterface} = require("readline");

require(process.argv[2] + "/node-main.js")
  .init({loader: {load: ["input/tex"]}})
  .then(async MathJax => {
    for await (const line of createInterface({input: process.stdin})) {
      const {tex, display} = JSON.parse(line);
      console.log(JSON.stringify(await MathJax.tex2mmlPromise(tex, {display})));
    }
  });
