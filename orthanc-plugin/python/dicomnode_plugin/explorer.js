// Orthanc Explorer: a button, a progress bar and a link to the result, on the page of a series and of a study.
// Whatever comes from a server is set as text, never as HTML.
(function () {
  'use strict';

  var EVERY_MS = 1000, PATIENCE_MS = 15000;

  function nowMs() { // Orthanc Explorer carries a library that makes a Date of Date.now()
    return new Date().getTime();
  }

  function url(path) {
    return '../' + path;
  }

  function link(id, words) {
    var page = '#series?uuid=' + encodeURIComponent(id);
    return $('<a>').attr('href', page).attr('data-ajax', 'false').text(words).click(function () {
      // jQuery Mobile does not leave the page of a series for that of another: another query loads it afresh
      var query = window.location.search.replace(/[?&]at=\d+/, '');
      window.location.href = 'explorer.html' + query + (query ? '&' : '?') + 'at=' + nowMs() + page;
      return false;
    });
  }

  // One line: name, button, bar, words, results. `id` is Orthanc's name of the series.
  function line(id, name) {
    var box = $('<div class="dicomnode-line">').css({ margin: '0.4em 0' }).attr('data-series', id);
    var button = $('<button type="button" class="dicomnode-enhance" data-role="none">')
      .text('Enhance with dicomnode').css({ padding: '0.4em 1em', marginRight: '1em' });
    var bar = $('<progress class="dicomnode-progress" max="1" value="0">')
      .css({ width: '14em', marginRight: '1em', verticalAlign: 'middle' }).hide();
    var words = $('<span class="dicomnode-words">');
    var results = $('<span class="dicomnode-results">');
    if (name) { box.append(link(id, name).css({ marginRight: '1em' })); }
    box.append(button, bar, words, results);

    var until = 0, timer = null, alive = true, listed = '';

    function show(told) {
      if (told.state === 'result') {
        button.hide();
        bar.hide();
        words.text('This series was made by a dicomnode.');
        return;
      }
      var share = Math.round(100 * told.progress) + ' %';
      var said = told.state === 'new' ? '' : told.state + (told.final ? '' : ' ' + share);
      if (told.state !== 'new' && told.words && told.words !== told.state) { said += ': ' + told.words; }
      words.text(said);
      bar.toggle(told.state !== 'new' && told.state !== 'not-sent').attr('value', told.progress);
      button.prop('disabled', !told.final);
      var names = $.map(told.results, function (result) { return result.id; });
      if (names.join() !== listed) { // a link that is being clicked stays the same link
        listed = names.join();
        results.empty();
        $.each(names, function (_, name) {
          results.append(' ', link(name, 'Open the enhanced series').addClass('dicomnode-result'));
        });
      }
    }

    function ask() {
      clearTimeout(timer);
      if (!alive || !$.contains(document.documentElement, box[0])) { return; }
      $.ajax({ url: url('dicomnode/series/' + id), dataType: 'json', cache: false, success: function (told) {
        show(told);
        if (!told.final || nowMs() < until) {
          timer = setTimeout(ask, EVERY_MS);
        } else if (told.state === 'new') { // not looked at yet, or left to the button
          timer = setTimeout(ask, 5 * EVERY_MS);
        }
      }, error: function (answer) {
        var told = 'The dicomnode plugin does not answer.';
        if (answer.status === 503) { told = 'The dicomnode plugin is off; /dicomnode/status says why.'; }
        words.text(told);
        timer = setTimeout(ask, 5 * EVERY_MS);
      } });
    }

    button.click(function () {
      until = nowMs() + PATIENCE_MS;
      button.prop('disabled', true);
      words.text('asked ...');
      $.ajax({ url: url('dicomnode/series/' + id + '/enhance'), type: 'POST', dataType: 'json', data: '',
        success: function () { setTimeout(ask, 300); },
        error: function (answer) {
          words.text('Refused (HTTP ' + answer.status + ').');
          button.prop('disabled', false);
        } });
      return false;
    });

    box.ask = ask;
    box.stop = function () { alive = false; clearTimeout(timer); };
    return box;
  }

  var shown = [];

  function place(page, boxes) {
    $.each(shown, function (_, box) { box.stop(); });
    shown = boxes;
    $('.dicomnode-box').remove();
    if (!boxes.length) { return; }
    var frame = $('<div class="dicomnode-box ui-bar ui-bar-d ui-corner-all">').css({ marginBottom: '1em' });
    $.each(boxes, function (_, box) { frame.append(box); });
    $(page).find('[data-role="content"]').first().prepend(frame);
    $.each(boxes, function (_, box) { box.ask(); });
  }

  function current() {
    return $.mobile.pageData && $.mobile.pageData.uuid;
  }

  $('#series').live('pageshow', function () {
    var id = current(), page = this;
    if (!id) { return; }
    $.getJSON(url('series/' + id), function (series) {
      place(page, series.MainDicomTags.Modality === 'CT' ? [line(series.ID, '')] : []);
    });
  });

  $('#study').live('pageshow', function () {
    var id = current(), page = this;
    if (!id) { return; }
    $.getJSON(url('studies/' + id + '/series'), function (found) {
      var boxes = [];
      $.each(found, function (_, series) {
        var tags = series.MainDicomTags;
        if (tags.Modality === 'CT') {
          boxes.push(line(series.ID, (tags.SeriesNumber || '') + ' ' + (tags.SeriesDescription || 'CT series')));
        }
      });
      place(page, boxes);
    });
  });
}());
